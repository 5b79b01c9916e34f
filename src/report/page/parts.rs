//! Pieces of the page.

use std::fmt::Write;

use crate::report::plot::svg::escaped;
use crate::report::plot::{Figure, base64};
use crate::report::render::Grid;

/// Data of a plot beyond this many bytes is left to `soctok plot`.
const CARRIED: usize = 150_000;

/// A section with its heading.
pub(super) fn section(id: &str, title: &str, body: &str) -> String {
    format!("<section id=\"{id}\">\n<h2>{title}</h2>\n{body}</section>\n")
}

/// Short facts side by side; empty ones are left out.
pub(super) fn facts(facts: &[String]) -> String {
    facts.iter().filter(|fact| !fact.is_empty()).map(|fact| format!("<li>{}</li>\n", escaped(fact))).collect()
}

/// Prose, with `…` between backticks as code.
pub(super) fn words(text: &str) -> String {
    let mut out = String::new();
    let parts: Vec<&str> = text.split('`').collect();
    let paired = parts.len() % 2 == 1;
    for (number, part) in parts.iter().enumerate() {
        match number % 2 == 1 && paired {
            true => {
                let _ = write!(out, "<code>{}</code>", escaped(part));
            }
            false if number > 0 && !paired => {
                let _ = write!(out, "`{}", escaped(part));
            }
            false => out += &escaped(part),
        }
    }
    out
}

/// Names as code, with commas.
pub(super) fn listed(names: &[String]) -> String {
    names.iter().map(|name| format!("<code>{}</code>", escaped(name))).collect::<Vec<_>>().join(", ")
}

/// A table of figures with its notes.
pub(super) fn table(grid: &Grid) -> String {
    let mut out = format!(
        "<div class=\"scroll\" tabindex=\"0\">\n<table>\n<caption>{}</caption>\n<thead><tr>",
        escaped(&grid.title)
    );
    for (column, name) in grid.header.iter().enumerate() {
        let class = if column < grid.labels { " class=\"label\"" } else { "" };
        let _ = write!(out, "<th scope=\"col\"{class}>{}</th>", escaped(name));
    }
    out += "</tr></thead>\n<tbody>\n";
    for row in &grid.rows {
        out += "<tr>";
        for (column, cell) in row.iter().enumerate() {
            let text = escaped(cell);
            let _ = match (column < grid.labels, class(cell)) {
                (true, _) => write!(out, "<th scope=\"row\">{text}</th>"),
                (false, Some(class)) => write!(out, "<td class=\"{class}\">{text}</td>"),
                (false, None) => write!(out, "<td>{text}</td>"),
            };
        }
        out += "</tr>\n";
    }
    out += "</tbody>\n</table>\n</div>\n";
    for note in &grid.notes {
        let _ = writeln!(out, "<p class=\"note\">{}</p>", words(note));
    }
    out
}

/// Why something that would stand here cannot be made.
pub(super) fn unmade(error: &impl std::fmt::Display) -> String {
    format!("<p class=\"note\">Cannot be made: {}</p>\n", words(&error.to_string()))
}

fn class(cell: &str) -> Option<&'static str> {
    match cell {
        "in" => Some("in"),
        "out" => Some("out"),
        "missing" => Some("missing"),
        "not run" | "pending" => Some("absent"),
        other if other.starts_with("n/a") => Some("absent"),
        _ => None,
    }
}

/// A table of words, the first column naming the row.
pub(super) fn worded(title: &str, header: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let caption = if title.is_empty() { String::new() } else { format!("<caption>{}</caption>\n", escaped(title)) };
    let head: String =
        header.iter().map(|name| format!("<th scope=\"col\" class=\"label\">{}</th>", escaped(name))).collect();
    let mut out =
        format!("<div class=\"scroll\" tabindex=\"0\">\n<table>\n{caption}<thead><tr>{head}</tr></thead>\n<tbody>\n");
    for row in rows {
        let cells = row.iter().enumerate().map(|(column, cell)| match column {
            0 => format!("<th scope=\"row\">{}</th>", escaped(cell)),
            _ => format!("<td class=\"words\">{}</td>", escaped(cell)),
        });
        let _ = writeln!(out, "<tr>{}</tr>", cells.collect::<String>());
    }
    out + "</tbody>\n</table>\n</div>\n"
}

/// A plot with its caption and its data.
pub(super) fn figure(figure: &Figure) -> String {
    let data = if figure.data.len() <= CARRIED {
        format!(
            "<a class=\"screen\" download=\"{}.csv\" href=\"data:text/csv;base64,{}\">data as CSV</a>",
            escaped(&figure.name),
            base64(figure.data.as_bytes())
        )
    } else {
        format!(
            "<span class=\"screen\"><code>soctok plot</code> writes its data ({} kB)</span>",
            figure.data.len() / 1000
        )
    };
    format!(
        "<figure id=\"plot-{}\">\n{}<figcaption>{} {data}</figcaption>\n</figure>\n",
        escaped(&figure.name),
        figure.svg,
        words(&figure.caption)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backticks_become_code_when_they_pair() {
        assert_eq!(words("a `b<c` d"), "a <code>b&lt;c</code> d");
        assert_eq!(words("a ` d"), "a ` d");
    }

    #[test]
    fn cells_are_escaped_and_marked() {
        let grid = Grid {
            title: "<t>".into(),
            header: vec!["a".into(), "b".into()],
            labels: 1,
            rows: vec![vec!["x&y".into(), "not run".into()], vec!["z".into(), "1.5".into()]],
            notes: vec!["n".into()],
        };
        let html = table(&grid);
        assert!(html.contains("<caption>&lt;t&gt;</caption>") && html.contains("<th scope=\"row\">x&amp;y</th>"));
        assert!(html.contains("<td class=\"absent\">not run</td>") && html.contains("<td>1.5</td>"), "{html}");
    }
}
