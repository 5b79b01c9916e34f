//! Keys: what makes two steps the same.
//!
//! A step key is the BLAKE3 digest of canonical JSON of the scheme's version, the stage kind and its version, the
//! normalised settings that differ from the kind's built-in defaults, and the identity of every input: the key of an
//! upstream step or the digest of external content. Names, comments, paths, the device and thread counts are no part
//! of it. Texts are told apart by their characters (two normal forms of Unicode are two texts), numbers by their values:
//! both zeros are one.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value, json};

use crate::stages::{Kind, kind::Settings};
use crate::store::StepRecord;

/// Raised when keys are formed in another way; every step then gets a new key.
pub const SCHEME: u32 = 1;

/// Hex digits of a key: 128 bits.
const DIGITS: usize = 32;

/// JSON with sorted keys and no space: equal values give equal text.
pub fn canonical(value: &Value) -> String {
    let mut text = Vec::new();
    write(value, &mut text);
    utf8(text)
}

/// The digest of a canonical text: the first 128 bits of its BLAKE3 digest, hex.
pub fn digest(canonical: &str) -> String {
    blake3::hash(canonical.as_bytes()).to_hex()[..DIGITS].to_owned()
}

/// What an input is in an identity.
#[derive(Clone, Copy, Debug)]
pub enum Input<'a> {
    /// The key of an upstream step.
    Step(&'a str),
    /// The digest of external content.
    Content(&'a str),
    /// The path of external content that was not read; a key that rests on it stands for nothing.
    Pending(&'a Path),
}

/// What a step's key is the digest of, in its canonical form; `inputs` are sorted by field.
pub fn identity<'a>(kind: &Kind, settings: &Settings, inputs: impl Iterator<Item = (&'a str, Input<'a>)>) -> String {
    let mut text = Vec::with_capacity(256);
    text.extend_from_slice(b"{\"inputs\":");
    object(inputs, &mut text, |input, text| {
        let (what, name) = match input {
            Input::Step(key) => ("step", key.into()),
            Input::Content(digest) => ("content", digest.into()),
            Input::Pending(path) => ("pending", path.to_string_lossy()),
        };
        object(std::iter::once((what, name)), text, |name, text| string(&name, text));
    });
    text.extend_from_slice(b",\"kind\":");
    string(kind.name, &mut text);
    text.extend_from_slice(format!(",\"scheme\":{SCHEME},\"settings\":").as_bytes());
    let mut kept: Vec<(&str, &Value)> = without_defaults(kind, settings).collect();
    kept.sort_unstable_by_key(|(name, _)| *name);
    object(kept.into_iter(), &mut text, write);
    text.extend_from_slice(format!(",\"version\":{}}}", kind.version).as_bytes());
    utf8(text)
}

/// The run hash: the digest of the keys of a point's stages, which are sorted by the stage's name.
pub fn run<'a>(stages: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    let mut text = format!("{{\"scheme\":{SCHEME},\"stages\":").into_bytes();
    object(stages, &mut text, string);
    text.push(b'}');
    digest(&utf8(text))
}

fn write(value: &Value, text: &mut Vec<u8>) {
    match value {
        Value::Object(map) => {
            let mut entries: Vec<(&str, &Value)> = map.iter().map(|(name, value)| (name.as_str(), value)).collect();
            entries.sort_unstable_by_key(|(name, _)| *name);
            object(entries.into_iter(), text, write);
        }
        Value::Array(values) => {
            text.push(b'[');
            for (index, value) in values.iter().enumerate() {
                if index > 0 {
                    text.push(b',');
                }
                write(value, text);
            }
            text.push(b']');
        }
        Value::String(value) => string(value, text),
        Value::Number(number) if number.is_f64() && number.as_f64() == Some(0.0) => text.extend_from_slice(b"0.0"),
        scalar => text.extend_from_slice(scalar.to_string().as_bytes()),
    }
}

/// Entries in the order in which they come.
fn object<'a, T>(
    entries: impl Iterator<Item = (&'a str, T)>,
    text: &mut Vec<u8>,
    mut write: impl FnMut(T, &mut Vec<u8>),
) {
    text.push(b'{');
    for (index, (name, value)) in entries.enumerate() {
        if index > 0 {
            text.push(b',');
        }
        string(name, text);
        text.push(b':');
        write(value, text);
    }
    text.push(b'}');
}

fn string(value: &str, text: &mut Vec<u8>) {
    serde_json::to_writer(text, value).expect("writing to memory does not fail");
}

fn utf8(text: Vec<u8>) -> String {
    String::from_utf8(text).expect("JSON of texts is text")
}

/// The key of the second index: that of an identity with the digests of its inputs' bytes, by field, for upstream keys.
pub fn by_outputs(identity: &Value, inputs: &BTreeMap<&str, &str>) -> String {
    let mut identity = identity.clone();
    identity["inputs"] = json!(inputs);
    if let Some(arms) = identity.get_mut("arms").and_then(Value::as_array_mut) {
        arms.iter_mut().filter_map(Value::as_object_mut).for_each(|arm| {
            arm.shift_remove("step");
        });
    }
    digest(&canonical(&identity))
}

/// [`by_outputs`] of a finished step.
pub fn of_record(record: &StepRecord) -> String {
    let inputs = record.inputs.iter().map(|(field, input)| (field.as_str(), input.digest.as_str()));
    by_outputs(&record.identity, &inputs.collect())
}

/// Settings that differ from the kind's defaults and can change the result; references are left to the inputs.
fn without_defaults<'s>(kind: &Kind, settings: &'s Settings) -> impl Iterator<Item = (&'s str, &'s Value)> {
    let kept = settings.iter().filter(|(name, value)| {
        kind.is_part_of_key(name) && !kind.is_reference(name) && kind.default_of(name) != Some(value)
    });
    kept.map(|(name, value)| (name.as_str(), value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stages::{Upstream, note::Note};

    #[test]
    fn the_order_of_keys_does_not_matter_and_values_do() {
        let parse = |text: &str| serde_json::from_str::<Value>(text).expect("is JSON");
        let one = parse(r#"{"b": [1, {"y": 2, "x": null}], "a": "é\n"}"#);
        let two = parse(r#"{"a": "é\n", "b": [1, {"x": null, "y": 2}]}"#);
        assert_eq!(canonical(&one), r#"{"a":"é\n","b":[1,{"x":null,"y":2}]}"#);
        assert_eq!(canonical(&one), canonical(&two));
        assert_ne!(canonical(&one), canonical(&parse(r#"{"a": "é\n", "b": [1.5, {"x": null, "y": 2}]}"#)));
    }

    #[test]
    fn a_setting_at_its_default_is_no_part_of_the_identity() {
        let kind = Kind::of::<Note>();
        let mut settings = Settings::new();
        settings.insert("text".into(), "hello".into());
        let full = kind.normalise(&settings, &Upstream::default()).expect("fits");
        assert!(full.contains_key("after"));
        let none = || std::iter::empty();
        assert_eq!(identity(&kind, &settings, none()), identity(&kind, &full, none()));
        // The key of a note of today's scheme: a change here moves every key that users have.
        assert_eq!(digest(&identity(&kind, &full, none())), "c4c149c4a20ac638b027ae12e4d23621");
    }

    #[test]
    fn an_identity_is_canonical_and_reads_back() {
        let kind = Kind::of::<Note>();
        let mut settings = Settings::new();
        settings.insert("text".into(), "\"é\"\n\u{1}".into());
        settings.insert("a_number".into(), json!({ "b": -0.0, "a": [1e-4, 3.0, 17, null, true] }));
        let inputs = [
            ("after", Input::Step("0a")),
            ("before", Input::Content("1b")),
            ("later", Input::Pending(Path::new("data/\"x\""))),
        ];
        let text = identity(&kind, &settings, inputs.into_iter());
        let value: Value = serde_json::from_str(&text).expect("is JSON");
        assert_eq!(canonical(&value), text);
        let expected = json!({
            "scheme": SCHEME, "kind": "note", "version": kind.version,
            "settings": { "text": "\"é\"\n\u{1}", "a_number": { "b": 0.0, "a": [1e-4, 3.0, 17, null, true] } },
            "inputs": { "after": { "step": "0a" }, "before": { "content": "1b" }, "later": { "pending": "data/\"x\"" } },
        });
        assert_eq!(value, expected);
        let stages = json!({ "scheme": SCHEME, "stages": { "a": "0", "b\"": "1" } });
        assert_eq!(run([("a", "0"), ("b\"", "1")].into_iter()), digest(&canonical(&stages)));
    }
}
