//! Keys: what makes two steps the same.
//!
//! A step key is the BLAKE3 digest of canonical JSON of the scheme's version, the stage kind and its version, the
//! normalised settings that differ from the kind's built-in defaults, and the identity of every input: the key of an
//! upstream step or the digest of external content. Names, comments, paths, the device and thread counts are no part
//! of it. Texts are told apart by their characters (two normal forms of Unicode are two texts), numbers by their values:
//! both zeros are one.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::stages::{Kind, kind::Settings};
use crate::store::StepRecord;

/// Raised when keys are formed in another way; every step then gets a new key.
pub const SCHEME: u32 = 1;

/// Hex digits of a key: 128 bits.
const DIGITS: usize = 32;

/// JSON with sorted keys and no space: equal values give equal text.
pub fn canonical(value: &Value) -> String {
    let mut text = String::new();
    write(value, &mut text);
    text
}

fn write(value: &Value, text: &mut String) {
    match value {
        Value::Object(map) => {
            let mut entries: Vec<_> = map.iter().collect();
            entries.sort_unstable_by_key(|(name, _)| *name);
            text.push('{');
            for (index, (name, value)) in entries.into_iter().enumerate() {
                if index > 0 {
                    text.push(',');
                }
                text.push_str(&Value::from(name.as_str()).to_string());
                text.push(':');
                write(value, text);
            }
            text.push('}');
        }
        Value::Array(values) => {
            text.push('[');
            for (index, value) in values.iter().enumerate() {
                if index > 0 {
                    text.push(',');
                }
                write(value, text);
            }
            text.push(']');
        }
        Value::Number(number) if number.is_f64() && number.as_f64() == Some(0.0) => text.push_str("0.0"),
        scalar => text.push_str(&scalar.to_string()),
    }
}

/// The digest of a value's canonical form.
pub fn digest(value: &Value) -> String {
    blake3::hash(canonical(value).as_bytes()).to_hex()[..DIGITS].to_owned()
}

/// What a step's key is the digest of. `inputs` holds, by field, the key of an upstream step (`{"step": …}`) or the
/// digest of external content (`{"content": …}`).
pub fn identity(kind: &Kind, settings: &Settings, inputs: &BTreeMap<String, Value>) -> Value {
    json!({
        "scheme": SCHEME,
        "kind": kind.name,
        "version": kind.version,
        "settings": without_defaults(kind, settings),
        "inputs": inputs,
    })
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
    digest(&identity)
}

/// [`by_outputs`] of a finished step.
pub fn of_record(record: &StepRecord) -> String {
    let inputs = record.inputs.iter().map(|(field, input)| (field.as_str(), input.digest.as_str()));
    by_outputs(&record.identity, &inputs.collect())
}

/// Settings that differ from the kind's defaults and can change the result; references are left to the inputs.
fn without_defaults(kind: &Kind, settings: &Settings) -> Map<String, Value> {
    let kept = settings.iter().filter(|(name, value)| {
        kind.is_part_of_key(name) && kind.accepts(name).is_none() && kind.default_of(name) != Some(value)
    });
    kept.map(|(name, value)| (name.clone(), value.clone())).collect()
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
        assert_eq!(digest(&one), digest(&two));
        assert_ne!(digest(&one), digest(&parse(r#"{"a": "é\n", "b": [1.5, {"x": null, "y": 2}]}"#)));
    }

    #[test]
    fn a_setting_at_its_default_is_no_part_of_the_identity() {
        let kind = Kind::of::<Note>();
        let mut settings = Settings::new();
        settings.insert("text".into(), "hello".into());
        let full = kind.normalise(&settings, &Upstream::default()).expect("fits");
        assert!(full.contains_key("after"));
        assert_eq!(identity(&kind, &settings, &BTreeMap::new()), identity(&kind, &full, &BTreeMap::new()));
        // The key of a note of today's scheme: a change here moves every key that users have.
        assert_eq!(digest(&identity(&kind, &full, &BTreeMap::new())), "c4c149c4a20ac638b027ae12e4d23621");
    }
}
