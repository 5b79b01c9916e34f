//! LaTeX tables with the rules of `booktabs`.

use std::io::{self, Write};

use super::Grid;

/// Writes `\begin{table} … \end{table}`. The title becomes the caption and the label, notes stand below the table; the
/// document must load `booktabs`.
pub(super) fn write(grid: &Grid, out: &mut dyn Write) -> io::Result<()> {
    let line = |cells: &[String]| cells.iter().map(|cell| escaped(cell)).collect::<Vec<_>>().join(" & ");
    let columns: String = (0..grid.header.len()).map(|column| if column < grid.labels { 'l' } else { 'r' }).collect();
    writeln!(out, "% \\usepackage{{booktabs}}")?;
    writeln!(out, "\\begin{{table}}\n  \\centering")?;
    if !grid.title.is_empty() {
        writeln!(out, "  \\caption{{{}}}\n  \\label{{tab:{}}}", escaped(&grid.title), label(&grid.title))?;
    }
    writeln!(out, "  \\begin{{tabular}}{{{columns}}}\n    \\toprule")?;
    writeln!(out, "    {} \\\\\n    \\midrule", line(&grid.header))?;
    grid.rows.iter().try_for_each(|row| writeln!(out, "    {} \\\\", line(row)))?;
    writeln!(out, "    \\bottomrule\n  \\end{{tabular}}")?;
    for note in &grid.notes {
        writeln!(out, "  \\par\\footnotesize {}", escaped(note))?;
    }
    writeln!(out, "\\end{{table}}")
}

/// Text as LaTeX shows it: its own characters escaped, signs of ours in its words. Other characters stand as they are
/// (LaTeX reads UTF-8). What stands in backticks is set in the typewriter face. A number's minus becomes a minus sign, the other hyphens stay.
pub fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut before = None;
    let mut in_code = false;
    let mut rest = text.chars().peekable();
    while let Some(character) = rest.next() {
        let starts_number = before.is_none_or(|before: char| matches!(before, ' ' | '(' | '['));
        match character {
            '`' if in_code => {
                in_code = false;
                out.push('}');
            }
            '`' if rest.clone().any(|later| later == '`') => {
                in_code = true;
                out.push_str("\\texttt{");
            }
            '`' => out.push_str("\\textasciigrave{}"),
            '&' | '%' | '$' | '#' | '_' | '{' | '}' => out.extend(['\\', character]),
            '~' => out.push_str("\\textasciitilde{}"),
            '^' => out.push_str("\\textasciicircum{}"),
            '\\' => out.push_str("\\textbackslash{}"),
            '<' => out.push_str("\\textless{}"),
            '>' => out.push_str("\\textgreater{}"),
            '|' => out.push_str("\\textbar{}"),
            // `\\textquotedbl` would need another font encoding than LaTeX's own.
            '"' => out.push_str("\\texttt{\\char34}"),
            '±' => out.push_str("$\\pm$"),
            '×' => out.push_str("$\\times$"),
            '−' => out.push_str("$-$"),
            '–' => out.push_str("--"),
            '…' => out.push_str("\\ldots{}"),
            '·' => out.push_str("$\\cdot$"),
            'ρ' => out.push_str("$\\rho$"),
            'τ' => out.push_str("$\\tau$"),
            '≥' => out.push_str("$\\geq$"),
            '≤' => out.push_str("$\\leq$"),
            '-' if starts_number && rest.peek().is_some_and(char::is_ascii_digit) => out.push_str("$-$"),
            '\n' | '\r' => out.push(' '),
            // A bracket at the start of a row would be read as an option of the `\\` before it.
            '[' if before.is_none() => out.push_str("{[}"),
            other => out.push(other),
        }
        before = Some(character);
    }
    out
}

/// A label of letters, digits and hyphens.
fn label(title: &str) -> String {
    title.chars().map(|character| if character.is_ascii_alphanumeric() { character } else { '-' }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_latex_reads_as_its_own_is_escaped() {
        let text = "a_b & 50% of $x# {y} ~ ^ \\ <|>\" -0.5 ± –";
        let expected = "a\\_b \\& 50\\% of \\$x\\# \\{y\\} \\textasciitilde{} \\textasciicircum{} \\textbackslash{} \
                        \\textless{}\\textbar{}\\textgreater{}\\texttt{\\char34} $-$0.5 $\\pm$ --";
        assert_eq!(escaped(text), expected);
        assert_eq!(escaped("3.2 [-1.5; 2]"), "3.2 [$-$1.5; 2]");
        assert_eq!(escaped("repo-2025-12"), "repo-2025-12");
        assert_eq!(
            escaped("`wrong_clip` of `a` and `"),
            "\\texttt{wrong\\_clip} of \\texttt{a} and \\textasciigrave{}"
        );
        assert_eq!(escaped("[5.250] paper"), "{[}5.250] paper");
    }

    #[test]
    fn a_table_has_the_rules_of_booktabs() {
        let grid = Grid {
            title: "bits_per_word".into(),
            header: vec!["inject".into(), "bits".into()],
            labels: 1,
            rows: vec![vec!["none".into(), "-1.000".into()]],
            notes: vec!["50 % more".into()],
        };
        let mut bytes = Vec::new();
        write(&grid, &mut bytes).expect("writes to memory");
        let expected = "% \\usepackage{booktabs}\n\\begin{table}\n  \\centering\n  \\caption{bits\\_per\\_word}\n  \
                        \\label{tab:bits-per-word}\n  \\begin{tabular}{lr}\n    \\toprule\n    inject & bits \\\\\n    \
                        \\midrule\n    none & $-$1.000 \\\\\n    \\bottomrule\n  \\end{tabular}\n  \\par\\footnotesize 50 \
                        \\% more\n\\end{table}\n";
        assert_eq!(String::from_utf8(bytes).expect("is text"), expected);
    }
}
