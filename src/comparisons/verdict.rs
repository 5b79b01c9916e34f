//! The verdict of a `scores` comparison: one word per row, and one sentence for a reader who reads only that.
//!
//! A difference counts when its p, adjusted over the family, is below 1 − confidence. What is not shown is said to be
//! not shown, with the bound that was reached; that something is absent is said only of what passed the equivalence
//! test. Bits under wrong clips never appear.

use super::Row;
use super::scores::{Asks, Config};
use super::{Labels, Selection};
use crate::report::render::decimal;

/// What a row shows. The words of the figure `verdict`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The minuend needs more bits: with `information`, tokens tell of their clip.
    Gain,
    /// As `gain`, but the right clip's tokens were not shown to do better than another's.
    GainWithoutDependence,
    /// The minuend needs fewer bits.
    Loss,
    /// The difference lies within ± margin.
    Equivalent,
    /// Within ± margin, although the scores depend on the clip.
    DependsWithoutInformation,
    /// Neither a difference nor equivalence is shown.
    NotShown,
    /// No difference is shown, although the scores depend on the clip.
    DependsGainNotShown,
    /// The scores depend on the clip.
    Depends,
    /// The scores depend on the clip, and the right one's are the worse ones.
    DependsReversed,
    /// No dependence is shown.
    DependenceNotShown,
}

impl Outcome {
    fn word(self) -> &'static str {
        match self {
            Self::Gain => "gain",
            Self::GainWithoutDependence => "gain_without_dependence",
            Self::Loss => "loss",
            Self::Equivalent => "equivalent",
            Self::DependsWithoutInformation => "depends_without_information",
            Self::NotShown => "not_shown",
            Self::DependsGainNotShown => "depends_gain_not_shown",
            Self::Depends => "depends",
            Self::DependsReversed => "depends_reversed",
            Self::DependenceNotShown => "dependence_not_shown",
        }
    }

    const ALL: [Self; 10] = [
        Self::Gain,
        Self::GainWithoutDependence,
        Self::DependsWithoutInformation,
        Self::DependsGainNotShown,
        Self::Equivalent,
        Self::NotShown,
        Self::Loss,
        Self::Depends,
        Self::DependsReversed,
        Self::DependenceNotShown,
    ];
}

/// Adds `verdict` (and `depends`, where wrong clips were compared) to rows with adjusted p values.
pub(super) fn judge(config: &Config, rows: &mut [Row]) {
    for row in rows {
        if let Some(depends) = depends(config, row) {
            row.figures.insert("depends".into(), depends.into());
        }
        row.figures.insert("verdict".into(), outcome(config, row).word().into());
    }
}

fn figure(row: &Row, name: &str) -> f64 {
    row.figures.get(name).and_then(serde_json::Value::as_f64).unwrap_or(f64::NAN)
}

fn is(row: &Row, name: &str) -> bool {
    row.figures.get(name).and_then(serde_json::Value::as_bool).unwrap_or(false)
}

/// Is p, of `dependence` or of the wrong clips beside an amount, small enough? `None` where nothing was tested.
fn depends(config: &Config, row: &Row) -> Option<bool> {
    let name = match (config.asks, &config.wrong) {
        (Asks::Dependence, _) => "p_adjusted",
        (_, Some(_)) => "dependence_p_adjusted",
        (_, None) => return None,
    };
    Some(figure(row, name) < 1.0 - config.confidence)
}

fn outcome(config: &Config, row: &Row) -> Outcome {
    let depends = depends(config, row);
    if config.asks == Asks::Dependence {
        return match (depends, is(row, "misleads")) {
            (Some(true), true) => Outcome::Depends,
            (Some(true), false) => Outcome::DependsReversed,
            _ => Outcome::DependenceNotShown,
        };
    }
    let shown = figure(row, "p_adjusted") < 1.0 - config.confidence;
    match (shown && !is(row, "equivalent"), figure(row, "difference") > 0.0) {
        (true, true) if depends.is_some_and(|depends| !(depends && is(row, "misleads"))) => {
            Outcome::GainWithoutDependence
        }
        (true, true) => Outcome::Gain,
        (true, false) => Outcome::Loss,
        (false, _) if is(row, "equivalent") && depends == Some(true) => Outcome::DependsWithoutInformation,
        (false, _) if is(row, "equivalent") => Outcome::Equivalent,
        (false, _) if depends == Some(true) => Outcome::DependsGainNotShown,
        (false, _) => Outcome::NotShown,
    }
}

/// The sentence: clauses of the outcomes that occur, the rows of each by their labels.
pub(super) fn sentence(config: &Config, rows: &[Row]) -> String {
    let mut clauses = Vec::new();
    for outcome in Outcome::ALL {
        let members: Vec<&Row> = rows.iter().filter(|row| row.figures["verdict"] == outcome.word()).collect();
        if !members.is_empty() {
            clauses.push(clause(config, outcome, &members));
        }
    }
    let mut text = clauses.join("; ");
    if let Some(first) = text.get(..1) {
        text = first.to_uppercase() + &text[1..];
    }
    text + "."
}

fn clause(config: &Config, outcome: Outcome, rows: &[&Row]) -> String {
    let percent = |share: f64| (share * 1e4).round() / 100.0;
    let interval = format!("{} % interval", percent(config.confidence));
    let narrow = format!("{} % interval", percent(2.0 * config.confidence - 1.0));
    let margin = config.margin.map(decimal).unwrap_or_default();
    let each = |tell: &dyn Fn(&Row) -> String| {
        let parts: Vec<String> = rows.iter().map(|row| format!("{}{}", label(row), tell(row))).collect();
        parts.join(",")
    };
    let amount = |row: &Row| {
        let (value, low, high) = (figure(row, "difference"), figure(row, "low"), figure(row, "high"));
        format!(
            " {} bits per word ({interval} {} to {}{})",
            decimal(value),
            decimal(low),
            decimal(high),
            levels(config, row)
        )
    };
    let bounds = |row: &Row| {
        let (low, high) = (figure(row, "low"), figure(row, "high"));
        format!(" ({interval} {} to {} bits per word)", decimal(low), decimal(high))
    };
    let within = |row: &Row| {
        let (low, high) = (figure(row, "equivalence_low"), figure(row, "equivalence_high"));
        format!(" ({narrow} {} to {}, within ± {margin} bits per word)", decimal(low), decimal(high))
    };
    let p = |row: &Row| format!(" (p = {})", decimal(figure(row, "p_adjusted")));
    if config.asks == Asks::Difference {
        let (more, fewer) = sides(config);
        return match outcome {
            Outcome::Gain | Outcome::GainWithoutDependence => {
                format!("more bits are needed with {more} than with {fewer}:{}", each(&amount))
            }
            Outcome::Loss => format!("fewer bits are needed with {more} than with {fewer}:{}", each(&amount)),
            Outcome::Equivalent | Outcome::DependsWithoutInformation => {
                format!("equally many bits are needed with {more} and with {fewer}:{}", each(&within))
            }
            _ => format!("no difference is shown between {more} and {fewer}:{}", each(&bounds)),
        };
    }
    match outcome {
        Outcome::Gain => {
            format!("the tokens tell something of their clip that lowers the bits of the text:{}", each(&amount))
        }
        Outcome::GainWithoutDependence => format!(
            "there is a gain, but its own clip's tokens are not shown to do better than another's, so it need not come from \
             the picture:{}",
            each(&amount)
        ),
        Outcome::Loss => {
            format!("the tokens do worse than one that is the same for every clip:{}", each(&amount))
        }
        Outcome::Equivalent => {
            format!("the tokens tell no more than one that is the same for every clip:{}", each(&within))
        }
        Outcome::DependsWithoutInformation => {
            format!("the scores depend on the clip, but its tokens carry no information on the text:{}", each(&within))
        }
        Outcome::DependsGainNotShown => {
            format!("the scores depend on the clip, but no gain is shown:{}", each(&bounds))
        }
        Outcome::NotShown => format!("no gain is shown:{}", each(&bounds)),
        Outcome::Depends => format!("the scores depend on the clip, which is no amount of information:{}", each(&p)),
        Outcome::DependsReversed => {
            format!("the scores depend on the clip, and another clip's tokens do better than its own:{}", each(&p))
        }
        Outcome::DependenceNotShown => format!("no dependence on the clip is shown:{}", each(&p)),
    }
}

/// The labels of a row, ` \`global\``; nothing where there is one row only.
fn label(row: &Row) -> String {
    let labels: Vec<&str> = row.coordinates.values().map(String::as_str).collect();
    if labels.is_empty() { String::new() } else { format!(" `{}`", labels.join(", ")) }
}

/// The bits of both sides, and what stands beside them.
fn levels(config: &Config, row: &Row) -> String {
    let (from, to, beside) = (figure(row, "minuend"), figure(row, "subtrahend"), figure(row, "beside"));
    let both = format!("; from {} to {}", decimal(from), decimal(to));
    match &config.beside {
        Some(selection) if to > beside => {
            format!("{both}, yet {} needs only {}", described(selection), decimal(beside))
        }
        Some(selection) => format!("{both}, {} {}", described(selection), decimal(beside)),
        None => both,
    }
}

/// What tells the two sides of a difference apart, in words. Labels that make rows are told there.
fn sides(config: &Config) -> (String, String) {
    let (more, fewer) = (&config.minuend, &config.subtrahend);
    let own = |one: &Selection, other: &Selection| {
        let differs = |axis: &&String| one.0.get(*axis) != other.0.get(*axis);
        Selection(one.0.keys().filter(differs).map(|axis| (axis.clone(), one.0[axis].clone())).collect())
    };
    let minuend = described(&own(more, fewer));
    let mut subtrahend = own(fewer, more);
    subtrahend.0.retain(|axis, _| !config.each.contains(axis));
    let rows_tell = subtrahend.0.is_empty() && !config.each.is_empty();
    (minuend, if rows_tell { "each of these".to_owned() } else { described(&subtrahend) })
}

/// The labels that a selection names; `base` only where there is no other.
fn described(selection: &Selection) -> String {
    let labels = |labels: &Labels| match labels {
        Labels::One(one) => one.clone(),
        Labels::Several(several) => several.join(" or "),
    };
    let all: Vec<String> = selection.0.values().map(labels).collect();
    let telling: Vec<String> = all.iter().filter(|label| *label != "base").cloned().collect();
    let shown = if telling.is_empty() { all } else { telling };
    if shown.is_empty() { "the rest".to_owned() } else { format!("`{}`", shown.join(", ")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn row(inject: &str, figures: serde_json::Value) -> Row {
        let coordinates = [("inject".to_owned(), inject.to_owned())].into();
        let figures = figures.as_object().expect("a table").clone();
        Row { coordinates, figures }
    }

    fn config(settings: serde_json::Value) -> Config {
        let mut all = json!({"minuend": {"ablation": "constant_token"}, "subtrahend": {"ablation": "base"}});
        all.as_object_mut().expect("a table").extend(settings.as_object().expect("a table").clone());
        serde_json::from_value(all).expect("settings")
    }

    fn figures(difference: f64, half: f64, p: f64, dependence: f64) -> serde_json::Value {
        let inner = half * 0.84;
        json!({"difference": difference, "low": difference - half, "high": difference + half, "p_adjusted": p,
            "minuend": 1.0, "subtrahend": 1.0 - difference, "beside": 1.05, "margin": 0.02,
            "equivalence_low": difference - inner, "equivalence_high": difference + inner,
            "equivalent": difference - inner > -0.02 && difference + inner < 0.02,
            "dependence_p_adjusted": dependence, "misleads": true})
    }

    #[test]
    fn every_outcome_has_its_word_and_an_honest_clause() {
        let with = config(json!({"asks": "information", "margin": 0.02, "wrong": {"ablation": "wrong_clip"},
            "beside": {"inject": "none", "ablation": "base"}}));
        let cases = [
            ("a", figures(0.5, 0.1, 0.001, 0.001), "gain"),
            ("b", figures(0.5, 0.1, 0.001, 0.3), "gain_without_dependence"),
            ("c", figures(0.001, 0.01, 0.8, 0.001), "depends_without_information"),
            ("d", figures(0.05, 0.1, 0.3, 0.001), "depends_gain_not_shown"),
            ("e", figures(0.001, 0.01, 0.8, 0.9), "equivalent"),
            ("f", figures(0.05, 0.1, 0.3, 0.9), "not_shown"),
            ("g", figures(-0.5, 0.1, 0.001, 0.9), "loss"),
            // A difference that is there and smaller than the margin is none that matters.
            ("h", figures(0.01, 0.005, 0.001, 0.9), "equivalent"),
        ];
        let mut rows: Vec<Row> = cases.iter().map(|(name, figures, _)| row(name, figures.clone())).collect();
        judge(&with, &mut rows);
        for (row, (name, _, word)) in rows.iter().zip(&cases) {
            assert_eq!(row.figures["verdict"], *word, "{name}");
        }
        let text = sentence(&with, &rows);
        for part in [
            "The tokens tell something of their clip that lowers the bits of the text: `a` 0.500 bits per word (95 % \
             interval 0.400 to 0.600; from 1.000 to 0.500, `none` 1.050)",
            "not shown to do better than another's, so it need not come from the picture: `b`",
            "the scores depend on the clip, but its tokens carry no information on the text: `c` (90 % interval",
            "within ± 0.0200 bits per word)",
            "the scores depend on the clip, but no gain is shown: `d` (95 % interval -0.0500 to 0.150 bits per word)",
            "the tokens tell no more than one that is the same for every clip: `e` (90 % interval",
            "no gain is shown: `f`",
            "do worse than one that is the same for every clip: `g` -0.500 bits per word (95 % interval -0.600 to \
             -0.400; from 1.000 to 1.500, yet `none` needs only 1.050)",
        ] {
            assert!(text.contains(part), "no `{part}` in: {text}");
        }
        assert!(text.ends_with('.') && text.matches("; ").count() >= 6, "{text}");
    }

    #[test]
    fn dependence_is_told_without_any_bits() {
        let asks = config(json!({"asks": "dependence", "minuend": {"ablation": "wrong_clip"}}));
        let figures = |p: f64, misleads: bool| json!({"p_adjusted": p, "misleads": misleads});
        let mut rows =
            vec![row("a", figures(0.001, true)), row("b", figures(0.2, true)), row("c", figures(0.01, false))];
        judge(&asks, &mut rows);
        let words: Vec<&str> = rows.iter().filter_map(|row| row.figures["verdict"].as_str()).collect();
        assert_eq!(words, ["depends", "dependence_not_shown", "depends_reversed"]);
        assert_eq!(rows[1].figures["depends"], false);
        let text = sentence(&asks, &rows);
        assert!(text.starts_with("The scores depend on the clip, which is no amount of information: `a` (p = 0.0010)"));
        assert!(!text.contains("bits"), "{text}");
    }

    #[test]
    fn arms_that_make_rows_are_named_there() {
        let each = config(json!({"minuend": {"inject": "none", "ablation": "base"}, "margin": 0.02,
            "subtrahend": {"inject": ["global", "full"], "ablation": ["constant_token", "noise"]},
            "each": ["inject", "ablation"]}));
        let mut rows =
            vec![row("global", figures(0.001, 0.01, 0.8, 1.0)), row("full", figures(-0.001, 0.01, 0.8, 1.0))];
        judge(&each, &mut rows);
        let text = sentence(&each, &rows);
        assert!(text.starts_with("Equally many bits are needed with `none` and with each of these: `global` (90 % "));
        assert!(text.contains("bits per word), `full` (90 % interval"), "{text}");
    }

    #[test]
    fn a_plain_difference_names_what_differs() {
        let plain = config(json!({"minuend": {"world": "seen", "inject": "global"},
            "subtrahend": {"world": "seen", "inject": "local"}}));
        let mut rows = vec![row("x", figures(0.1, 0.02, 0.001, 1.0))];
        rows[0].coordinates.clear();
        rows[0].figures.remove("equivalent");
        judge(&plain, &mut rows);
        let text = sentence(&plain, &rows);
        assert_eq!(
            text,
            "More bits are needed with `global` than with `local`: 0.100 bits per word (95 % interval 0.0800 to 0.120; from 1.000 to \
             0.900)."
        );
    }
}
