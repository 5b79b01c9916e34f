//! `soctok reproduce`: in, out and missing, and what each means for the exit code.

mod support;

use std::process::Command;

use support::{Folder, NOTES, text};

/// `characters` is 8 for `two` and 10 for `three`.
const TABLES: &str = r#"
[tables.length]
value = "second.characters"
rows = "ending"

[tables.length.published.short]
where = { ending = "two" }
value = 7.5
tolerance = 0.5
source = "the paper, table 1"
note = "counted by hand"

[tables.length.published.long]
where = { ending = "three" }
value = 10

[tables.mean]
value = ["second.characters", "first.characters"]
over = "ending"

[tables.mean.published.both]
where = { ending = ["two", "three"] }
figure = "second.characters"
value = 9
tolerance = 0
"#;

fn folder(tables: &str) -> Folder {
    let folder = Folder::new();
    folder.write("notes.toml", &format!("{NOTES}{tables}"));
    folder
}

fn verdicts(facts: &serde_json::Value) -> Vec<(String, String)> {
    let word = |value: &serde_json::Value| value.as_str().expect("text").to_owned();
    let checks = facts["checks"].as_array().expect("a list");
    checks.iter().map(|check| (word(&check["name"]), word(&check["verdict"]))).collect()
}

fn pair(name: &str, verdict: &str) -> (String, String) {
    (name.to_owned(), verdict.to_owned())
}

#[test]
fn what_is_not_there_is_missing_and_running_it_brings_it_in() {
    let folder = folder(TABLES);
    let output = folder.soctok(&["reproduce", "notes.toml", "--check", "--json"]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    let facts: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(verdicts(&facts), [pair("long", "beside"), pair("short", "missing"), pair("both", "missing")]);
    assert_eq!((&facts["checks"][1]["reason"], &facts["checks"][1]["ours"]), (&"not run".into(), &().into()));
    assert!(!folder.path().join("soctok-store").exists(), "--check runs nothing");

    let facts = folder.json(&["reproduce", "notes.toml"]);
    assert_eq!(verdicts(&facts), [pair("long", "beside"), pair("short", "in"), pair("both", "in")]);
    let short = &facts["checks"][1];
    assert_eq!((short["ours"].as_f64(), short["difference"].as_f64()), (Some(8.0), Some(0.5)), "the edge is inside");
    assert_eq!((&short["source"], &short["note"]), (&"the paper, table 1".into(), &"counted by hand".into()));
    let both = &facts["checks"][2];
    assert_eq!((both["ours"].as_f64(), &both["results"]), (Some(9.0), &2.into()), "the mean over the axis");
    let shown = folder.ok(&["reproduce", "notes.toml", "--check"]);
    assert!(shown.contains("length.short: source: the paper, table 1; worth: counted by hand"), "{shown}");
}

#[test]
fn a_figure_outside_of_the_tolerance_ends_with_3() {
    let folder = folder(&TABLES.replace("value = 7.5", "value = 7.4"));
    let output = folder.soctok(&["reproduce", "notes.toml"]);
    assert_eq!(output.status.code(), Some(3));
    assert!(text(&output.stderr).contains("error: 1 in, 1 out, 0 missing, 1 without a tolerance"));
    // Out weighs more than missing.
    let output = folder.soctok(&["reproduce", "notes.toml", "--check", "--set", "first.text=four"]);
    assert_eq!(output.status.code(), Some(1), "another graph, of which nothing has run");
}

#[test]
fn tables_show_published_values_where_they_belong() {
    let folder = folder(TABLES);
    folder.ok(&["run", "notes.toml"]);
    let shown = folder.ok(&["table", "notes.toml", "length"]);
    assert!(shown.contains("two       8 [7.500]\n") && shown.contains("three   10 [10.000]\n"), "{shown}");
    assert!(shown.contains("[7.500] the paper, table 1: counted by hand\n"), "{shown}");
    let mean = folder.ok(&["table", "notes.toml", "mean", "--format", "csv"]);
    assert!(mean.contains("characters"), "{mean}");
}

#[test]
fn mistakes_in_published_values_are_found_when_the_file_is_read() {
    let without = TABLES.replace("figure = \"second.characters\"\n", "");
    let output = folder(&without).soctok(&["check", "notes.toml"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("published value `both` does not say which figure it is"));
    let output = folder(&TABLES.replace("figure = \"second.", "figure = \"secnd.")).soctok(&["check", "notes.toml"]);
    assert!(text(&output.stderr).contains("did you mean `second.characters`"), "{}", text(&output.stderr));
    let output = folder("").soctok(&["reproduce", "notes.toml", "--check"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("names no published value"));
    // A value that stands for several results is no check.
    let several = "\n[tables.length]\nvalue = \"second.characters\"\nrows = \"ending\"\n\n[tables.length.published.all]\n\
                   where = { ending = [\"two\", \"three\"] }\nvalue = 9\ntolerance = 1\n";
    let folder = folder(several);
    folder.ok(&["run", "notes.toml", "--only", "first"]);
    let output = folder.soctok(&["reproduce", "notes.toml", "--check"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("name `ending` in"), "{}", text(&output.stderr));
}

/// Needs `pdflatex` with `booktabs` (Debian: texlive-latex-base, texlive-latex-recommended).
#[test]
#[ignore = "needs pdflatex"]
fn latex_tables_compile() {
    let odd = "\n[tables.odd]\nvalue = \"second.characters\"\nrows = \"ending\"\n\
               [tables.odd.published.a]\nwhere = { ending = \"two\" }\nvalue = -0.5\ntolerance = 100\n\
               source = \"50% of $x_1$ & {y} # ~ ^ \\\\ <|> ± – − · \\\"q\\\"\"\n";
    let folder = folder(odd);
    folder.ok(&["run", "notes.toml"]);
    let table = folder.ok(&["table", "notes.toml", "--format", "latex"]);
    let checks = folder.ok(&["reproduce", "notes.toml", "--check", "--format", "latex"]);
    let document = "\\documentclass{article}\n\\usepackage{booktabs}\n\\begin{document}\n";
    folder.write("t.tex", &format!("{document}{table}{checks}\\end{{document}}\n"));
    let output = Command::new("pdflatex")
        .args(["-halt-on-error", "-interaction=nonstopmode", "t.tex"])
        .current_dir(folder.path())
        .output()
        .expect("pdflatex is installed: Debian packages texlive-latex-base and texlive-latex-recommended");
    assert!(output.status.success(), "{}", text(&output.stdout));
    assert!(folder.path().join("t.pdf").is_file());
}

#[test]
fn misspelt_figures_and_cells_of_several_results_are_found_when_the_file_is_read() {
    let mistakes = |tables: &str| {
        let output = folder(tables).soctok(&["check", "notes.toml"]);
        (output.status.code(), text(&output.stderr))
    };
    // A figure of a stage is known when it has run: neither of the two names is called the wrong one.
    let slip = TABLES.replace("value = [\"second.characters\", ", "value = [\"second.charcters\", ");
    let (code, stderr) = mistakes(&slip);
    assert_eq!(code, Some(2), "{stderr}");
    assert!(stderr.contains("did you mean `second.charcters`? (one of the two names is misspelt"), "{stderr}");

    let compared = "[comparisons.apart]\nof = \"second.characters\"\nminuend = { ending = \"two\" }\n\
                    subtrahend = { ending = \"three\" }\n[tables.apart]\nvalue = \"apart.differnece\"\n\
                    [tables.apart.published.one]\nwhere = {}\nfigure = \"apart.difference\"\nvalue = 1\n";
    let (code, stderr) = mistakes(compared);
    assert_eq!(code, Some(2), "{stderr}");
    assert!(stderr.contains("comparison `apart` (kind `scores`) has no figure `differnece`"), "{stderr}");
    assert!(stderr.contains("hint: did you mean `difference`?"), "{stderr}");
    assert_eq!(stderr.matches("error: ").count(), 1, "the right name is not blamed: {stderr}");
    assert_eq!(mistakes(&compared.replace("differnece", "difference")).0, Some(0));

    // `second` is another step for each ending, `first` is the same for all.
    let (code, stderr) = mistakes("[tables.length]\nvalue = \"second.characters\"\n");
    assert_eq!(code, Some(2), "{stderr}");
    assert!(stderr.contains("table `length`: the cell holds different results of `second`"), "{stderr}");
    assert!(stderr.contains("hint: name `ending` in `rows`, `columns`, `over` or `where`"), "{stderr}");
    assert_eq!(mistakes("[tables.length]\nvalue = \"first.characters\"\n").0, Some(0));
    for cure in ["rows = \"ending\"", "columns = \"ending\"", "over = \"ending\"", "where = { ending = \"two\" }"] {
        let (code, stderr) = mistakes(&format!("[tables.length]\nvalue = \"second.characters\"\n{cure}\n"));
        assert_eq!(code, Some(0), "{cure}: {stderr}");
    }
}
