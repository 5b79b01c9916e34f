//! One HTML page of an experiment: what was asked, what was found, from what, and how to do it again.
//!
//! The page needs nothing beside itself: styles and plots stand in it, there is no script and nothing is fetched. It is
//! read on a screen of any width, in the light and in the dark, and printed.

mod parts;
mod provenance;

use std::collections::{BTreeMap, BTreeSet};

use crate::experiment::{Experiment, Node, Source, inline};
use crate::plan::Plan;
use crate::report::plot::svg::escaped;
use crate::report::plot::{Figure, PlotError, figures};
use crate::report::render::Format;
use crate::report::reproduce::{self, Verdict};
use crate::report::table::{self, Figures, TableError, coordinates};
use crate::store::{Store, StoreError};
use parts::{facts, listed, section, words};

/// Why there is no page.
#[derive(Debug, thiserror::Error)]
pub enum PageError {
    /// A table cannot be made.
    #[error(transparent)]
    Table(#[from] TableError),
    /// A plot cannot be made.
    #[error(transparent)]
    Plot(#[from] PlotError),
    /// A record cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A page.
#[derive(Debug)]
pub struct Page {
    /// The whole file.
    pub html: String,
    /// How many tables are in it.
    pub tables: usize,
    /// How many plots.
    pub plots: usize,
    /// Why tables, plots or published values are not in it; the page says so where they would stand.
    pub broken: Vec<PageError>,
}

const STYLE: &str = include_str!("style.css");

/// Makes the page from what has run.
///
/// # Errors
/// A finished step's record or figures cannot be read.
pub fn write(experiment: &Experiment, plan: &Plan<'_>, store: &Store) -> Result<Page, PageError> {
    let mut found = Figures::new(store);
    let (plots, unplotted) = figures(experiment, plan, store);
    let source = std::fs::read_to_string(&experiment.path).unwrap_or_default();
    let head = head_comment(&source);
    let provenance = provenance::read(plan, store)?;
    let (tables, unmade) = tables(experiment, plan, &mut found);
    let (verdict, uncompared) = verdict(experiment, plan, &mut found)?;
    let made = experiment.tables.len() - unmade.len();
    let plotted = plots_part(&plots, &unplotted);
    // What is wrong with a table is wrong with its published values too.
    let known: BTreeSet<String> = unmade.iter().map(TableError::to_string).collect();
    let uncompared = uncompared.into_iter().filter(|error| !known.contains(&error.to_string()));
    let broken = unmade.into_iter().chain(uncompared).map(PageError::Table);
    let broken = broken.chain(unplotted.into_iter().map(PageError::Plot)).collect();
    let sections = [
        ("asked", "What was asked", asked(experiment, &head)),
        ("verdict", "Verdict", verdict),
        ("tables", "Tables", tables),
        ("plots", "Plots", plotted),
        ("absent", "Cells that do not exist", absent(plan)),
        ("settings", "Settings", settings(experiment, &source)),
        ("provenance", "Provenance", provenance.html()),
        ("again", "How to do it again", again(experiment, &provenance)),
    ];
    let present: Vec<&(&str, &str, String)> = sections.iter().filter(|(.., body)| !body.is_empty()).collect();
    let links: String =
        present.iter().map(|(id, title, _)| format!("<li><a href=\"#{id}\">{title}</a></li>\n")).collect();
    let body: String = present.iter().map(|(id, title, body)| section(id, title, body)).collect();
    let complete = plan.points.iter().filter(|point| provenance.is_complete(point, plan, store)).count();
    let applicable = plan.points.iter().filter(|point| point.point.not_applicable.is_none()).count();
    let lead = head
        .question
        .as_ref()
        .map_or_else(String::new, |question| format!("<p class=\"lead\">{}</p>\n", words(question)));
    let html = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"generator\" content=\"soctok {version}\">\n<link rel=\"icon\" href=\"data:,\">\n\
         <title>{name}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<header>\n<h1>{name}</h1>\n{lead}\
         <ul class=\"facts\">\n{facts}</ul>\n<nav aria-label=\"sections\">\n<ul>\n{links}</ul>\n</nav>\n</header>\n\
         <main>\n{body}</main>\n<footer>\n<p>Made by <code>soctok report</code> {version} from finished steps; nothing was \
         computed again.</p>\n</footer>\n</body>\n</html>\n",
        version = env!("CARGO_PKG_VERSION"),
        name = escaped(&experiment.name),
        facts = facts(&[
            format!("protocol {}", experiment.protocol),
            format!("{complete} of {applicable} runs complete"),
            provenance.when(),
        ]),
    );
    Ok(Page { html, tables: made, plots: plots.len(), broken })
}

/// The comment at the head of an experiment file.
#[derive(Debug, Default, PartialEq)]
struct Head {
    /// Its prose.
    question: Option<String>,
    /// Its lines that are commands, with what they say beside.
    commands: Vec<String>,
}

fn head_comment(source: &str) -> Head {
    let lines = source.lines().take_while(|line| line.starts_with('#') || line.trim().is_empty());
    let mut head = Head::default();
    let mut prose = Vec::new();
    for line in lines.filter(|line| line.starts_with('#') && !line.starts_with("#:")) {
        let text = line.trim_start_matches('#').trim();
        if text.starts_with("soctok ") { head.commands.push(text.to_owned()) } else { prose.push(text) }
    }
    let prose = prose.join(" ").trim().to_owned();
    head.question = (!prose.is_empty()).then_some(prose);
    head
}

fn asked(experiment: &Experiment, head: &Head) -> String {
    let mut out = String::new();
    if !experiment.axes.is_empty() {
        let rows = experiment.axes.iter().map(|axis| {
            vec![
                axis.name.clone(),
                axis.labels.join(", "),
                if axis.binds.is_empty() { "bundles of settings".into() } else { axis.binds.join(", ") },
            ]
        });
        out += &parts::worded("Axes: every combination is a point", &["axis", "values", "sets"], rows);
    }
    if !experiment.ablations.is_empty() {
        out += &format!("<p>Ablations, applied on top: {}.</p>\n", listed(&experiment.ablations));
    }
    if !experiment.comparisons.is_empty() {
        let rows = experiment.comparisons.iter().map(|spec| {
            let settings: Vec<String> =
                spec.settings.iter().map(|(key, value)| format!("{key} = {}", inline(value))).collect();
            vec![spec.name.clone(), format!("{} of {}.{}", spec.kind, spec.of.0, spec.of.1), settings.join("; ")]
        });
        out += &parts::worded("Comparisons, fixed in the file", &["comparison", "what", "settings"], rows);
    }
    let inputs = experiment
        .data
        .iter()
        .map(|entry| ("data", entry))
        .chain(experiment.models.iter().map(|entry| ("model", entry)));
    let rows: Vec<Vec<String>> = inputs
        .map(|(space, (name, external))| {
            let place = match &external.source {
                Source::Path(path) => path.display().to_string(),
                Source::Hub { repository, revision } => {
                    format!("{repository} at {}", revision.as_deref().unwrap_or("the locked commit"))
                }
            };
            vec![format!("{space}:{name}"), place]
        })
        .collect();
    if !rows.is_empty() {
        out += &parts::worded("What comes from outside", &["name", "where"], rows);
    }
    if !head.commands.is_empty() {
        out += &format!("<pre>{}</pre>\n", escaped(&head.commands.join("\n")));
    }
    if out.is_empty() { "<p>One point, without axes, ablations or comparisons.</p>\n".to_owned() } else { out }
}

fn verdict(
    experiment: &Experiment,
    plan: &Plan<'_>,
    found: &mut Figures<'_>,
) -> Result<(String, Vec<TableError>), PageError> {
    let mut out = String::new();
    let mut sentences = Vec::new();
    for spec in &experiment.comparisons {
        let Some(&step) = plan.comparisons.get(spec.name.as_str()) else { continue };
        let said = match found.of(&plan.steps[step].name())? {
            None => Some("has not run".to_owned()),
            Some(summary) => summary.get(VERDICT).and_then(serde_json::Value::as_str).map(str::to_owned),
        };
        if let Some(said) = said {
            sentences.push(format!("<li><b>{}</b>{}</li>\n", escaped(&spec.name), words(&said)));
        }
    }
    if !sentences.is_empty() {
        out += &format!("<ul class=\"verdicts\">\n{}</ul>\n", sentences.concat());
    }
    let (checks, broken) = reproduce::checks(experiment, plan, found);
    if !checks.is_empty() {
        let counted = |verdict: Verdict| {
            let count = checks.iter().filter(|check| check.verdict == verdict).count();
            let class = if count > 0 { verdict.word() } else { "none" };
            format!("<span class=\"{class}\">{count} {}</span>", verdict.word())
        };
        out += &format!(
            "<p>Published values: {}, {}, {}, {} (no tolerance is given: both stand side by side, neither is judged).</p>\n",
            counted(Verdict::In),
            counted(Verdict::Out),
            counted(Verdict::Missing),
            counted(Verdict::Beside)
        );
        out += &parts::table(&reproduce::grid(experiment, &checks));
    }
    Ok((out, broken))
}

/// The figure of a comparison's step that says in words what it found.
const VERDICT: &str = "verdict";

fn tables(experiment: &Experiment, plan: &Plan<'_>, found: &mut Figures<'_>) -> (String, Vec<TableError>) {
    let (mut out, mut broken) = (String::new(), Vec::new());
    for spec in &experiment.tables {
        match table::grid(experiment, plan, spec, found, Format::Text) {
            Ok(grid) => out += &parts::table(&grid),
            Err(error) => {
                out += &parts::unmade(&error);
                broken.push(error);
            }
        }
    }
    (out, broken)
}

fn plots_part(plots: &[Figure], broken: &[PlotError]) -> String {
    let missing: String = broken.iter().map(parts::unmade).collect();
    if plots.is_empty() {
        return missing;
    }
    let figures: String = plots.iter().map(parts::figure).collect();
    format!("<div class=\"figures\">\n{figures}</div>\n{missing}")
}

/// Points that a rule excludes, by the rule's sentence.
fn absent(plan: &Plan<'_>) -> String {
    let mut by_sentence: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for planned in &plan.points {
        if let Some(rule) = &planned.point.not_applicable {
            let labels: Vec<String> = coordinates(planned)
                .iter()
                .filter(|(axis, label)| !(axis.as_str() == "ablation" && label.as_str() == "base"))
                .map(|(axis, label)| format!("{axis} {label}"))
                .collect();
            by_sentence.entry(&rule.sentence).or_default().push(labels.join(" · "));
        }
    }
    let items = by_sentence.into_iter().map(|(sentence, points)| {
        format!(
            "<li>{}: {}</li>\n",
            words(sentence),
            points.iter().map(|point| escaped(point)).collect::<Vec<_>>().join("; ")
        )
    });
    let items: String = items.collect();
    if items.is_empty() { items } else { format!("<ul>\n{items}</ul>\n") }
}

/// The settings of the first point that has each stage, and the file itself.
fn settings(experiment: &Experiment, source: &str) -> String {
    let mut stages: BTreeMap<&str, &Node> = BTreeMap::new();
    for point in &experiment.points {
        for (name, node) in &point.stages {
            stages.entry(&**name).or_insert(node);
        }
    }
    let mut out = String::from(
        "<p>Every setting with defaults filled in; what an axis or an ablation sets is shown as the first point has it.</p>\n",
    );
    for (name, node) in stages {
        let bound = |field: &str| {
            let target = format!("{name}.{field}");
            experiment
                .axes
                .iter()
                .find(|axis| axis.binds.contains(&target))
                .map(|axis| format!(" (axis {})", axis.name))
        };
        let rows = node.settings.iter().map(|(field, value)| {
            let shown = value.as_str().map_or_else(|| inline(value), str::to_owned);
            vec![field.clone(), format!("{shown}{}", bound(field).unwrap_or_default())]
        });
        let table = parts::worded("", &["setting", "value"], rows);
        out += &format!(
            "<details>\n<summary><code>{}</code> ({})</summary>\n{table}</details>\n",
            escaped(name),
            escaped(node.kind)
        );
    }
    if !source.is_empty() {
        out +=
            &format!("<details>\n<summary>the experiment file</summary>\n<pre>{}</pre>\n</details>\n", escaped(source));
    }
    out
}

fn again(experiment: &Experiment, provenance: &provenance::Provenance) -> String {
    let file = experiment.path.display().to_string();
    let mut lines = Vec::new();
    if let [commit] = provenance.commits().as_slice() {
        lines.push(format!("git checkout {commit}"));
    }
    let mut commands = vec![format!("cargo run --release -- run {file}")];
    if experiment.tables.iter().any(|table| !table.published.is_empty()) {
        commands.push(format!("cargo run --release -- reproduce {file} --check"));
    }
    commands.push(format!("cargo run --release -- report {file}"));
    lines.extend(commands);
    let given = provenance.commands();
    let given = if given.is_empty() {
        String::new()
    } else {
        format!("<p>The finished steps were made by:</p>\n<pre>{}</pre>\n", escaped(&given.join("\n")))
    };
    format!(
        "<pre>{}</pre>\n<p>What is done is not done again: a step is identified by its kind, its settings and the bytes of its \
         inputs.</p>\n{given}",
        escaped(&lines.join("\n"))
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_head_of_a_file_is_its_question_and_its_commands() {
        let source = "#:schema x\n# Is it\n# so?\n# soctok run a.toml    1 min\n\nname = \"a\"\n# later\n";
        let head = head_comment(source);
        assert_eq!(head.question.as_deref(), Some("Is it so?"));
        assert_eq!(head.commands, ["soctok run a.toml    1 min"]);
        assert_eq!(head_comment("name = 1\n# no\n"), Head::default());
    }
}
