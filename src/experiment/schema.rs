//! JSON Schemas for editors: of whole experiment files, and of each stage and comparison kind.

use serde_json::{Map, Value, json};

use super::rules::RULES;
use super::{grammar, reports};
use crate::comparisons::ComparisonKind;
use crate::stages::Kind;

const DIALECT: &str = "https://json-schema.org/draft/2020-12/schema";

/// The schema of an experiment file with these kinds.
pub fn experiment(kinds: &[Kind], comparisons: &[ComparisonKind]) -> Value {
    let mut schema = grammar::schema();
    let mut stages: Vec<Value> = kinds.iter().map(stage_form).collect();
    let part = json!({
        "type": "object",
        "description": "Settings above those of a base file",
        "not": { "required": ["kind"] },
    });
    stages.push(part);
    schema["properties"]["stages"]["additionalProperties"] = json!({ "anyOf": stages });
    let comparisons: Vec<Value> = comparisons.iter().map(reports::comparison_schema).collect();
    if !comparisons.is_empty() {
        schema["properties"]["comparisons"]["additionalProperties"] = json!({ "anyOf": comparisons });
    }
    let layered = grammar::TOP_LEVEL.iter().filter(|key| !matches!(**key, "name" | "extends" | "profiles"));
    let layer: Map<String, Value> =
        layered.map(|key| ((*key).to_owned(), json!({ "$ref": format!("#/properties/{key}") }))).collect();
    schema["properties"]["profiles"]["additionalProperties"] =
        json!({ "type": "object", "additionalProperties": false, "properties": layer });
    // A file that extends another may leave both to it.
    if let Some(object) = schema.as_object_mut() {
        object.remove("required");
    }
    head(schema, "soctok experiment")
}

/// Every schema as (path in the folder, content).
pub fn files(kinds: &[Kind], comparisons: &[ComparisonKind]) -> Vec<(String, String)> {
    let text = |schema: &Value| format!("{schema:#}\n");
    let mut files = vec![("experiment.schema.json".to_owned(), text(&experiment(kinds, comparisons)))];
    for kind in kinds {
        let schema = head(described(kind), kind.name);
        files.push((format!("stages/{}.schema.json", kind.name), text(&schema)));
    }
    for kind in comparisons {
        let schema = head(reports::comparison_schema(kind), kind.name);
        files.push((format!("comparisons/{}.schema.json", kind.name), text(&schema)));
    }
    files
}

/// The schema of a kind's settings, with the rules that read a field in its description.
pub fn described(kind: &Kind) -> Value {
    let mut schema = kind.schema.clone();
    for (field, property) in schema["properties"].as_object_mut().into_iter().flatten() {
        for rule in RULES.iter().filter(|rule| rule.reads(kind.name, field)) {
            let before = property["description"].as_str().map(|text| format!("{text}\n\n")).unwrap_or_default();
            property["description"] =
                json!(format!("{before}{} ({}): {}", rule.name, rule.verdict.word(), rule.sentence));
        }
    }
    schema["description"] = json!(kind.summary);
    schema["additionalProperties"] = json!(false);
    schema
}

/// A stage table of this kind. Nothing but `kind` is required: an axis may give the rest.
fn stage_form(kind: &Kind) -> Value {
    let mut schema = described(kind);
    let name = json!({ "const": kind.name, "description": kind.summary });
    match schema["properties"].as_object_mut() {
        Some(properties) => {
            properties.insert("kind".to_owned(), name);
        }
        None => schema["properties"] = json!({ "kind": name }),
    }
    schema["required"] = json!(["kind"]);
    if let Some(object) = schema.as_object_mut() {
        object.remove("$schema");
        object.insert("title".to_owned(), json!(kind.name));
    }
    schema
}

fn head(schema: Value, title: &str) -> Value {
    let mut headed = Map::from_iter([("$schema".to_owned(), json!(DIALECT)), ("title".to_owned(), json!(title))]);
    headed.extend(
        schema.as_object().cloned().into_iter().flatten().filter(|(key, _)| key != "$schema" && key != "title"),
    );
    Value::Object(headed)
}
