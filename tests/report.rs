//! `soctok plot` and `soctok report`: well-formed, whole, self-contained, the same bytes again.

mod support;
#[path = "support/world.rs"]
mod world;

use std::collections::BTreeSet;

use support::{Folder, NOTES, text};

/// Names of the elements of a document, every one opened and closed in order; text must have no bare `<`.
fn elements(document: &str) -> Vec<String> {
    const EMPTY: [&str; 3] = ["meta", "link", "!DOCTYPE"];
    let mut open: Vec<String> = Vec::new();
    let mut found = Vec::new();
    let mut rest = document;
    while let Some(start) = rest.find('<') {
        let end = rest[start..].find('>').map(|end| start + end).expect("a tag ends");
        let tag = &rest[start + 1..end];
        rest = &rest[end + 1..];
        if let Some(name) = tag.strip_prefix('/') {
            assert_eq!(open.pop().as_deref(), Some(name), "`</{name}>` closes something else");
            continue;
        }
        let name = tag.split([' ', '\n', '/']).next().expect("a tag has a name").to_owned();
        assert!(!name.is_empty(), "`<{tag}>` has no name");
        if !tag.ends_with('/') && !EMPTY.contains(&name.as_str()) {
            open.push(name.clone());
        }
        found.push(name);
    }
    assert!(open.is_empty(), "{open:?} are not closed");
    found
}

/// Values of an attribute anywhere in a document.
fn attributes<'d>(document: &'d str, name: &str) -> Vec<&'d str> {
    let key = format!(" {name}=\"");
    document.split(&key).skip(1).map(|rest| &rest[..rest.find('"').expect("a quoted value")]).collect()
}

#[test]
fn a_page_and_its_plots_show_what_was_found() {
    let folder = world::ran();
    let facts = folder.json(&["plot", "shown.toml", "-o", "plots"]);
    let names: BTreeSet<&str> =
        facts["plots"].as_array().expect("a list").iter().map(|plot| plot["name"].as_str().expect("text")).collect();
    for name in ["scores-perplexity", "comparison-information", "training-projector"] {
        assert!(names.iter().any(|known| known.starts_with(name)), "{name} is not among {names:?}");
    }
    assert!(names.iter().any(|name| name.starts_with("matrix-rsa")), "{names:?}");
    for name in &names {
        let read = |end: &str| {
            let path = folder.path().join("plots").join(format!("{name}.{end}"));
            std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
        };
        let (svg, data) = (read("svg"), read("csv"));
        let tags = elements(&svg);
        assert_eq!(tags[..3], ["svg", "title", "desc"], "{name}");
        assert!(tags.iter().any(|tag| tag == "text"), "{name} has no text");
        assert!(["NaN", "\"inf", "Minf", "Linf"].iter().all(|bad| !svg.contains(bad)), "{name} has no finite places");
        assert!(attributes(&svg, "href").iter().all(|link| link.starts_with("data:")), "{name}");
        assert!(data.lines().count() > 1, "{name} has no data");
    }
    // The same results, the same bytes.
    folder.ok(&["plot", "shown.toml", "-o", "again"]);
    for name in &names {
        for end in ["svg", "csv"] {
            let bytes = ["plots", "again"].map(|place| {
                std::fs::read(folder.path().join(place).join(format!("{name}.{end}"))).expect("is written")
            });
            assert!(bytes[0] == bytes[1], "{name}.{end} differs");
        }
    }
    let data = std::fs::read_to_string(folder.path().join("plots/scores-perplexity.csv")).expect("one chart");
    let arms: BTreeSet<&str> = data.lines().skip(1).filter_map(|line| line.split(',').next()).collect();
    assert_eq!(
        arms,
        BTreeSet::from(["full", "full · constant_token", "full · wrong_clip", "none", "none · text_oracle"])
    );

    let facts = folder.json(&["report", "shown.toml", "-o", "page.html"]);
    let page = std::fs::read_to_string(folder.path().join("page.html")).expect("is written");
    let tags = elements(&page);
    let count = |name: &str| tags.iter().filter(|tag| *tag == name).count();
    assert_eq!((count("figure"), count("svg")), (names.len(), names.len()));
    assert_eq!((facts["plots"].as_u64(), facts["tables"].as_u64()), (Some(names.len() as u64), Some(3)));
    assert_eq!(count("script"), 0, "text of the file is no markup");
    assert!(page.contains("nowhere &lt;script&gt;alert(1)&lt;/script&gt;"));
    assert!(page.contains("A world with a &lt;known&gt; answer &amp; few clips."));
    for name in ["src", "srcset", "action", "poster"] {
        assert_eq!(attributes(&page, name), [""; 0], "nothing is fetched");
    }
    assert!(attributes(&page, "href").iter().all(|link| link.starts_with('#') || link.starts_with("data:")));
    assert!(!page.contains("url(") && !page.contains("@import"));
    let ids = attributes(&page, "id");
    assert_eq!(ids.len(), ids.iter().collect::<BTreeSet<_>>().len(), "every id once");
    for link in attributes(&page, "href").iter().filter_map(|link| link.strip_prefix('#')) {
        assert!(ids.contains(&link), "`#{link}` leads nowhere");
    }
    for part in ["asked", "verdict", "tables", "plots", "absent", "settings", "provenance", "again"] {
        assert!(ids.contains(&part), "no section `{part}`");
    }
    assert!(page.contains("there are no social tokens to pool over"), "cells that do not exist say why");
    assert!(page.contains("<td class=\"in\">in</td>") && page.contains("<td class=\"out\">out</td>"));
    folder.ok(&["report", "shown.toml", "-o", "again.html"]);
    assert_eq!(page, std::fs::read_to_string(folder.path().join("again.html")).expect("is written"));
    assert_eq!(folder.soctok(&["reproduce", "shown.toml", "--check"]).status.code(), Some(3));
}

#[test]
fn a_page_of_what_has_not_run_says_so_and_there_is_nothing_to_plot() {
    let folder = Folder::new();
    folder.write("notes.toml", &format!("{NOTES}[tables.length]\nvalue = \"second.characters\"\nrows = \"ending\"\n"));
    assert_eq!(folder.ok(&["report", "notes.toml"]), "notes.html\n");
    let page = std::fs::read_to_string(folder.path().join("notes.html")).expect("is written");
    elements(&page);
    assert!(page.contains("<td class=\"absent\">not run</td>") && page.contains("0 of 2 runs complete"), "{page}");
    let output = folder.soctok(&["plot", "notes.toml"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("hint: `soctok run notes.toml`"), "{}", text(&output.stderr));
    assert!(!folder.path().join("plots").exists() && !folder.path().join("soctok-store").exists());
}
