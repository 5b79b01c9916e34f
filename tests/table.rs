//! `soctok table`: figures over seeds, in every form from the same numbers.

mod support;

use serde_json::Value;
use support::Folder;

/// Two notes of which one differs between seeds: 2, 4 and 6 characters.
const SEEDS: &str = r#"
name = "seeds"

[stages.drawn]
kind = "note"
text = "a"
[stages.fixed]
kind = "note"
text = "always the same"
[stages.last]
kind = "note"
text = "x"
after = "stage:drawn"

[axes.way.values]
drawn = { "last.after" = "stage:drawn" }
fixed = { "last.after" = "stage:fixed" }
[axes.seed]
to = ["drawn.text"]
values = ["a", "bbb", "ccccc"]

[tables.length]
value = "last.characters"
rows = "way"
over = "seed"
[tables.length.published.drawn]
where = { way = "drawn" }
value = 5.5
source = "a book"
"#;

fn built() -> Folder {
    let folder = Folder::new();
    folder.write("seeds.toml", SEEDS);
    folder.ok(&["run", "seeds.toml"]);
    folder
}

/// scipy 1.17.1: scipy.stats.t.interval(0.95, 2, loc=6, scale=scipy.stats.sem([4, 6, 8])) = (1.0317, 10.9683)
#[test]
fn seeds_show_mean_deviation_and_interval_in_every_form() {
    let folder = built();
    let note = "mean ± standard deviation over seed (95 % t interval of the mean), n = 3; ± – where one run serves all";
    let text = folder.ok(&["table", "seeds.toml"]);
    let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
    assert_eq!(lines[3], "drawn  6.000 ± 2.000 (1.032 to 10.968) [5.500]", "{text}");
    assert_eq!(lines[4].split_whitespace().collect::<Vec<_>>(), ["fixed", "18", "±", "–"], "{text}");
    assert!(lines.contains(&note) && lines.contains(&"[5.500] a book"), "{text}");
    let markdown = folder.ok(&["table", "seeds.toml", "--format", "markdown"]);
    assert!(
        markdown.contains("| drawn | 6.000 ± 2.000 (1.032 to 10.968) [5.500] |") && markdown.contains(note),
        "{markdown}"
    );
    let csv = folder.ok(&["table", "seeds.toml", "--format", "csv"]);
    let head = "characters,characters deviation,characters low,characters high,characters n,characters published";
    assert_eq!(csv, format!("way,{head}\ndrawn,6.000,2.000,1.032,10.968,3,5.500\nfixed,18,–,–,–,1,\n"));
    let json = folder.json(&["table", "seeds.toml"]);
    for (name, value) in [("", 6.0), (" deviation", 2.0), (" low", 1.032), (" high", 10.968), (" n", 3.0)] {
        assert_eq!(json[0][format!("characters{name}")], value, "{json}");
    }
    assert_eq!((&json[1]["characters"], &json[1]["characters deviation"]), (&Value::from(18.0), &Value::from("–")));
}

#[test]
fn a_table_that_cannot_be_made_keeps_no_other_from_being_shown() {
    let folder = Folder::new();
    let wrong = |name: &str| format!("[tables.{name}]\nvalue = \"last.{name}\"\nrows = \"way\"\nover = \"seed\"\n");
    // The first table and the last are wrong, the one between them is not.
    let text = SEEDS.replace("[tables.length]", &format!("{}[tables.length]", wrong("charcters")));
    folder.write("seeds.toml", &format!("{text}{}", wrong("words")));
    for command in ["run", "table"] {
        let output = folder.soctok(&[command, "seeds.toml"]);
        let (shown, told) = (support::text(&output.stdout), support::text(&output.stderr));
        assert_eq!(output.status.code(), Some(1), "{told}");
        assert!(shown.starts_with("length\n") && shown.contains("6.000 ± 2.000"), "{command}: {shown}");
        for figure in ["charcters", "words"] {
            let error = format!("error: table `{figure}`: `last` has no figure `{figure}`\nhint: it has `characters`");
            assert!(told.contains(&error), "{command}: {told}");
        }
    }
    let output = folder.soctok(&["run", "seeds.toml"]);
    assert!(support::text(&output.stderr).contains("0 steps run"), "what ran stands");
    // The page has the table between them too, and says what is wrong in the place of the others.
    let output = folder.soctok(&["report", "seeds.toml", "-o", "page.html", "--json"]);
    let told = support::text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{told}");
    let facts: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!((&facts["tables"], &facts["plots"]), (&1.into(), &0.into()));
    let page = std::fs::read_to_string(folder.path().join("page.html")).expect("is written");
    assert!(page.contains("6.000 ± 2.000") && page.contains("<td>beside</td>"), "{page}");
    for figure in ["charcters", "words"] {
        assert_eq!(told.matches(&format!("has no figure `{figure}`")).count(), 1, "{told}");
        assert!(page.contains(&format!("has no figure <code>{figure}</code>")), "{page}");
    }
    // Published values of a table that can be made are compared whatever the others are.
    let published = "[tables.words.published.one]\nwhere = { way = \"drawn\" }\nvalue = 1\ntolerance = 1\n";
    folder.write(
        "seeds.toml",
        &format!("{text}{}{published}", wrong("words")).replace("source", "tolerance = 1\nsource"),
    );
    for command in [&["reproduce", "seeds.toml"][..], &["reproduce", "seeds.toml", "--check"]] {
        let output = folder.soctok(&[command, &["--json"]].concat());
        let told = support::text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{told}");
        let facts: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        assert_eq!((&facts["in"], &facts["missing"]), (&1.into(), &1.into()), "{facts}");
        let reason = facts["checks"][1]["reason"].as_str().expect("text");
        assert!(reason.contains("has no figure `words`"), "{reason}");
        assert!(told.contains("error: table `words`: `last` has no figure `words`"), "{told}");
        assert!(!told.contains("charcters"), "a table without published values is not asked for: {told}");
    }
}

#[test]
fn cells_of_several_rows_of_a_comparison_are_found_when_the_file_is_read() {
    let folder = Folder::new();
    let compared = "[comparisons.apart]\nof = \"last.characters\"\nminuend = { way = \"drawn\" }\n\
                    subtrahend = { way = \"fixed\" }\naverage = AVERAGE\n[tables.apart]\nvalue = \"apart.difference\"\n";
    let checked = |average: &str, table: &str| {
        folder.write("seeds.toml", &format!("{SEEDS}{}{table}", compared.replace("AVERAGE", average)));
        let output = folder.soctok(&["check", "seeds.toml"]);
        (output.status.code(), support::text(&output.stderr))
    };
    // A row for each seed, or one that averages over them.
    let (code, told) = checked("[]", "");
    assert_eq!(code, Some(2), "{told}");
    assert!(told.contains("table `apart`: the cell holds several rows of `apart`"), "{told}");
    assert!(told.contains("hint: name `seed` in `rows`, `columns` or `where`"), "{told}");
    for cure in ["rows = \"seed\"", "columns = \"seed\"", "over = \"seed\"", "where = { seed = \"a\" }"] {
        let (code, told) = checked("[]", cure);
        assert_eq!(code, Some(0), "{cure}: {told}");
    }
    assert_eq!(checked("[\"seed\"]", "").0, Some(0));
    let (code, told) = checked("[\"seed\"]", "rows = \"seed\"");
    assert_eq!(code, Some(2), "{told}");
    assert!(told.contains("table `apart`: the rows of `apart` have no `seed`"), "{told}");
    assert!(told.contains("hint: they have no axis: there is one row"), "{told}");
}

#[test]
fn a_cell_of_fewer_seeds_says_how_many() {
    let folder = built();
    let fewer = format!("{SEEDS}\n[exclude.one]\nwhere = {{ way = \"fixed\", seed = \"a\" }}\n")
        .replace("[axes.seed]\nto = [\"drawn.text\"]", "[axes.seed]\nto = [\"drawn.text\", \"fixed.text\"]");
    folder.write("seeds.toml", &fewer);
    folder.ok(&["run", "seeds.toml"]);
    let text = folder.ok(&["table", "seeds.toml"]);
    // scipy 1.17.1: scipy.stats.t.interval(0.95, 1, loc=7, scale=scipy.stats.sem([6, 8])) = (-5.7062, 19.7062)
    assert!(text.contains("7.000 ± 1.414 (-5.706 to 19.706; n = 2)"), "{text}");
    assert!(text.contains("6.000 ± 2.000 (1.032 to 10.968) [5.500]") && text.contains("n = 3;"), "{text}");
    // One seed: no deviation and no interval.
    folder.write("seeds.toml", SEEDS);
    let one = folder.ok(&["table", "seeds.toml", "--set", "axes.seed.values=[\"ccccc\"]"]);
    assert!(one.contains("8 ± –") && !one.contains(" to "), "{one}");
}

#[test]
fn figures_of_one_name_from_two_stages_have_columns_of_their_own_in_every_form() {
    let folder = built();
    let both = SEEDS.replace("value = \"last.characters\"", "value = [\"last.characters\", \"drawn.characters\"]");
    folder.write("seeds.toml", &both.replace("value = 5.5", "value = 5.5\nfigure = \"last.characters\""));
    let rows = folder.json(&["table", "seeds.toml"]);
    // 2, 4 and 6 characters are drawn, line ends included; `last` adds two.
    assert_eq!((&rows[0]["last.characters"], &rows[0]["drawn.characters"]), (&Value::from(6.0), &Value::from(4.0)));
    assert_eq!(rows[0]["last.characters published"], 5.5, "{rows}");
    assert!(rows[0].get("characters").is_none(), "{rows}");
    for format in ["text", "csv", "markdown"] {
        let shown = folder.ok(&["table", "seeds.toml", "--format", format]);
        assert!(shown.contains("last.characters") && shown.contains("drawn.characters"), "{format}: {shown}");
    }
    assert!(folder.ok(&["table", "seeds.toml", "--format", "latex"]).contains("last.characters & drawn.characters"));
}
