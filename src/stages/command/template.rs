//! Placeholders of a command's arguments.

use super::super::{Result, StageError};

/// A piece of an argument.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Text(String),
    /// `{input:NAME}`
    Input(String),
    /// `{value:NAME}`
    Value(String),
    /// `{output}` and `{output:FILE}`
    Output(Option<String>),
    /// `{scratch}`
    Scratch,
    /// `{device}`
    Device,
}

/// Takes an argument apart.
pub(super) fn parse(argument: &str) -> Result<Vec<Part>> {
    let mut parts = Vec::new();
    let mut text = String::new();
    let mut rest = argument;
    while let Some(at) = rest.find(['{', '}']) {
        text.push_str(&rest[..at]);
        let (brace, after) = (&rest[at..at + 1], &rest[at + 1..]);
        if let Some(doubled) = after.strip_prefix(brace) {
            text.push_str(brace);
            rest = doubled;
            continue;
        }
        let inner = if brace == "{" { after.split_once('}') } else { None };
        let Some((inner, after)) = inner else {
            let hint = format!("write `{brace}{brace}` for a brace that is meant as one");
            return Err(StageError::hint(format!("`{argument}` has a single `{brace}`"), hint));
        };
        if !text.is_empty() {
            parts.push(Part::Text(std::mem::take(&mut text)));
        }
        parts.push(part(argument, inner)?);
        rest = after;
    }
    text.push_str(rest);
    if !text.is_empty() {
        parts.push(Part::Text(text));
    }
    Ok(parts)
}

fn part(argument: &str, inner: &str) -> Result<Part> {
    let named = inner.split_once(':').filter(|(_, name)| !name.is_empty());
    match (inner, named) {
        ("output", _) => Ok(Part::Output(None)),
        ("scratch", _) => Ok(Part::Scratch),
        ("device", _) => Ok(Part::Device),
        (_, Some(("input", name))) => Ok(Part::Input(name.to_owned())),
        (_, Some(("value", name))) => Ok(Part::Value(name.to_owned())),
        (_, Some(("output", name))) => Ok(Part::Output(Some(name.to_owned()))),
        _ => {
            let hint = "placeholders are `{input:NAME}`, `{value:NAME}`, `{output}`, `{output:FILE}`, `{scratch}` and \
                        `{device}`; `{{` and `}}` are braces";
            Err(StageError::hint(format!("`{{{inner}}}` in `{argument}` is no placeholder"), hint))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_argument_falls_into_text_and_placeholders() {
        let text = |text: &str| Part::Text(text.to_owned());
        let parts = parse("--out={output:a/b.npy}{{x}}{input:c}/d{output}").expect("is well formed");
        let output = Part::Output(Some("a/b.npy".to_owned()));
        assert_eq!(
            parts,
            [text("--out="), output, text("{x}"), Part::Input("c".to_owned()), text("/d"), Part::Output(None)]
        );
        assert_eq!(parse("").expect("is well formed"), []);
        assert_eq!(parse("é{device}").expect("is well formed"), [text("é"), Part::Device]);
        for (wrong, message) in [("{", "single `{`"), ("a}b", "single `}`"), ("{inputs:x}", "no placeholder")] {
            let error = parse(wrong).expect_err("is not");
            assert!(error.to_string().contains(message), "{error}");
        }
        assert!(parse("{input:}").is_err() && parse("{}").is_err());
    }
}
