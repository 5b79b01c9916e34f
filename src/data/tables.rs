//! Tables that no reader understands, and what every reader would stumble over: columns under other names, cells between
//! other separators, a quote that is not closed, a header alone.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::joined::Clips;
use super::survey::Survey;
use super::{Name, Report, judgments};
use crate::social::seen::FILE as SEEN;

/// Separators that other programs write, and their names.
const SEPARATORS: [(char, &str); 3] = [(';', "semicolons"), ('\t', "tabs"), ('|', "bars")];

/// The columns of each form that a table can have, the one that tells it from the others first.
const FORMS: [(&str, &[&str]); 5] = [
    ("captions", &["caption", "clip_id"]),
    ("a frame manifest", &["frame_path", "clip_id", "t_sec"]),
    ("judgments", &["odd_one", "clip_1", "clip_2", "clip_3"]),
    ("splits", &["split", "clip_id"]),
    ("the numbers of clips", &["index", "clip_id"]),
];

/// Other names of a column, in small letters and without signs between.
const ALIASES: [(&str, &[&str]); 9] = [
    ("clip_id", &["clip", "clipid", "clipname", "videoid", "video", "videoname", "filename", "file", "id", "name"]),
    ("caption", &["captions", "text", "sentence", "description"]),
    ("frame_path", &["frame", "framepath", "path", "image", "imagepath", "file"]),
    ("t_sec", &["tsec", "t", "time", "seconds", "timestamp"]),
    ("split", &["set", "partition", "subset"]),
    ("odd_one", &["oddone", "odd", "choice", "oddoneout"]),
    ("clip_1", &["clip1", "stim1", "stim1name", "video1", "first"]),
    ("clip_2", &["clip2", "stim2", "stim2name", "video2", "second"]),
    ("clip_3", &["clip3", "stim3", "stim3name", "video3", "third"]),
];

/// Columns by which one of the readers takes a table.
const TAKEN: [[&str; 2]; 5] = [
    ["clip_id", "caption"],
    ["video_name", "caption"],
    ["clip_id", "frame_path"],
    ["clip_id", "split"],
    ["clip_id", "index"],
];

/// Looks at every table that is no result of a step.
pub(super) fn look(survey: &Survey, clips: &Clips, report: &mut Report) {
    let names = judgments::names(survey);
    let outputs: BTreeSet<&Path> = survey.outputs.iter().map(PathBuf::as_path).collect();
    for (path, columns) in &survey.tables {
        let is_list = path.file_name().is_some_and(|name| name == SEEN);
        if is_list || path.parent().is_some_and(|folder| outputs.contains(folder)) {
            continue;
        }
        let place = survey.name(path);
        let bytes = std::fs::read(path).unwrap_or_default();
        if let Some(line) = unclosed_quote(&bytes) {
            let text = format!("the quote that opens in line {line} is never closed: all lines behind it are one cell");
            report.add(Name::UnreadableFile, &place, None, text);
        } else if csv::Reader::from_reader(bytes.as_slice()).records().next().is_none() {
            report.add(Name::EmptyTable, &place, None, "there is no line below the header");
        }
        let has = |name: &&str| columns.iter().any(|column| column == name);
        let is_taken = TAKEN.iter().any(|columns| columns.iter().all(&has));
        if is_taken || judgments::kind(path, columns, clips, &names).is_some() {
            continue;
        }
        match guess(columns) {
            Some(text) => report.add(Name::UnknownColumns, &place, None, text),
            None => report.notes.push(format!("seen and not understood: {place} (columns {})", listed(columns))),
        }
    }
}

/// The line, from 1, of a quote that is open at the end of a CSV; `None` where all are closed.
fn unclosed_quote(bytes: &[u8]) -> Option<usize> {
    let (mut line, mut open, mut at_start) = (1, None, true);
    let mut place = 0;
    while let Some(&byte) = bytes.get(place) {
        match (byte, open) {
            // Two quotes inside a quoted cell are one of its characters.
            (b'"', Some(_)) if bytes.get(place + 1) == Some(&b'"') => place += 1,
            (b'"', Some(_)) => open = None,
            (b'"', None) if at_start => open = Some(line),
            _ => {}
        }
        at_start = open.is_none() && matches!(byte, b',' | b'\n' | b'\r');
        line += usize::from(byte == b'\n');
        place += 1;
    }
    open
}

/// What a table with these columns was meant to be and why it is not; `None` when it looks like nothing that is known.
fn guess(columns: &[String]) -> Option<String> {
    let separator = match columns {
        [only] => SEPARATORS.iter().find(|(separator, _)| only.contains(*separator)),
        _ => None,
    };
    let columns: Vec<String> = match separator {
        Some((separator, _)) => columns[0].split(*separator).map(|name| name.trim().to_owned()).collect(),
        None => columns.to_vec(),
    };
    // The form with the fewest columns amiss, of those that every column can be found for.
    let fits = FORMS.iter().filter_map(|(form, needed)| {
        let found: Option<Vec<(&str, &String)>> =
            needed.iter().map(|name| Some((*name, called(name, &columns)?))).collect();
        // One column cannot be two.
        let columns: BTreeSet<&String> = found.as_ref()?.iter().map(|(_, column)| *column).collect();
        if columns.len() < needed.len() {
            return None;
        }
        let amiss = found.as_ref()?.iter().filter(|(name, column)| name != column).count();
        Some((amiss, *form, found?))
    });
    let (_, form, found) = fits.min_by_key(|(amiss, ..)| *amiss).or_else(|| half(&columns))?;
    let amiss: Vec<String> = found
        .iter()
        .filter(|(name, column)| name != column)
        .map(|(name, column)| match column.is_empty() {
            true => format!("`{name}` is missing"),
            false => format!("`{name}` is missing, and `{column}` is not read for it"),
        })
        .collect();
    let separated = separator.map(|(_, name)| format!("cells are separated by {name}, and only commas are read"));
    let why: Vec<String> = separated.into_iter().chain(amiss).collect();
    if why.is_empty() {
        return None;
    }
    Some(format!("seen and not understood, perhaps {form} (columns {}): {}", listed(&columns), why.join("; ")))
}

/// A form that a table may have: how many columns are amiss, its name, and its columns with those that stand for them.
type Fit<'a> = (usize, &'static str, Vec<(&'static str, &'a String)>);

/// A form whose telling column is there by its very name, and another is not.
fn half(columns: &[String]) -> Option<Fit<'_>> {
    const NOTHING: &String = &String::new();
    let (form, needed) = FORMS[..2].iter().find(|(_, needed)| columns.iter().any(|column| column == needed[0]))?;
    let found = needed.iter().map(|name| (*name, called(name, columns).unwrap_or(NOTHING))).collect();
    Some((0, *form, found))
}

/// The column that is meant to be `name`: itself, itself in other letters, or an alias.
fn called<'a>(name: &str, columns: &'a [String]) -> Option<&'a String> {
    let plain =
        |text: &str| -> String { text.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect() };
    let aliases = ALIASES.iter().find(|(known, _)| *known == name).map_or(&[][..], |(_, aliases)| aliases);
    let exact = columns.iter().find(|column| *column == name);
    let alike = || columns.iter().find(|column| plain(column) == plain(name));
    let other = || aliases.iter().find_map(|alias| columns.iter().find(|column| plain(column) == *alias));
    exact.or_else(alike).or_else(other)
}

fn listed(columns: &[String]) -> String {
    const SHOWN: usize = 8;
    let mut names: Vec<String> = columns.iter().take(SHOWN).map(|name| format!("`{}`", name.escape_debug())).collect();
    if columns.len() > SHOWN {
        names.push(format!("and {} more", columns.len() - SHOWN));
    }
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(header: &str) -> Option<String> {
        guess(&header.split(',').map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn columns_by_other_names_are_guessed() {
        let captions = told("clip,caption").unwrap();
        assert!(captions.contains("perhaps captions (columns `clip`, `caption`)"), "{captions}");
        assert!(captions.ends_with("`clip_id` is missing, and `clip` is not read for it"), "{captions}");
        assert!(told("Clip_ID,Split").unwrap().contains("perhaps splits"));
        assert!(told("video,frame,time").unwrap().contains("perhaps a frame manifest"));
        assert!(told("caption,votes").unwrap().ends_with(": `clip_id` is missing"));
        assert_eq!(told("clip_id,caption"), None, "nothing is amiss");
        assert_eq!(told("epoch,loss"), None);
    }

    #[test]
    fn quotes_that_stay_open_are_found_by_their_line() {
        assert_eq!(unclosed_quote(b"a,b\n1,\"two\nlines\"\n2,\"\"\"x\"\"\"\n"), None);
        assert_eq!(unclosed_quote(b"a,b\n1,5\" wide\n"), None, "a quote inside a bare cell is a character");
        assert_eq!(unclosed_quote(b"a,b\n1,\"two\n2,three\n"), Some(2));
        assert_eq!(unclosed_quote(b"a,b\r\n1,2\r\n\"x\"\"\r\n"), Some(3));
    }

    #[test]
    fn separators_are_guessed() {
        let text = told("clip_id;caption").unwrap();
        assert!(text.contains("(columns `clip_id`, `caption`): cells are separated by semicolons"), "{text}");
        let text = told("clip\tcaption").unwrap();
        assert!(text.contains("separated by tabs") && text.contains("`clip_id` is missing"), "{text}");
        assert_eq!(told("a;b"), None);
    }
}
