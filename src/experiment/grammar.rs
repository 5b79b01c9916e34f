//! The schema of the experiment file around the stages' own settings: what stands at the top, and the tables of axes,
//! ablations, comparisons and tables. The checker and `soctok schema` both read it.

use serde_json::{Value, json};

use crate::stages::CHECKPOINT_INTERVAL;

/// Every key that may stand at the top of an experiment file.
pub(super) const TOP_LEVEL: &[&str] = &[
    "name",
    "protocol",
    "extends",
    "data",
    "models",
    "stages",
    "axes",
    "exclude",
    "ablations",
    "comparisons",
    "tables",
    "run",
    "profiles",
];

/// The schema of a whole file. `stages`, `comparisons` and `profiles` are open here; who reads it fills them in.
pub(super) fn schema() -> Value {
    json!({
        "type": "object",
        "description": "A soctok experiment: data, models, stages, axes, ablations, comparisons, tables",
        "required": ["name", "stages"],
        "additionalProperties": false,
        "properties": {
            "name": {
                "type": "string",
                "description": "Name of the experiment: letters, digits, `-`, `_` and `.`, at most 200",
                "pattern": "^[A-Za-z0-9][A-Za-z0-9._-]{0,199}$",
            },
            "protocol": {
                "description": "The named set of defaults that lies below this file",
                "default": super::protocols::DEFAULT,
                "enum": super::protocols::names(),
            },
            "extends": {
                "description": "Files that lie below this one, relative to it; a later one lies above an earlier one",
                "anyOf": [{ "type": "string" }, { "type": "array", "items": { "type": "string" } }],
            },
            "data": named("Data from outside", data()),
            "models": named("Models and trained parts from outside", model()),
            "stages": named("Named nodes of the graph", json!({ "type": "object" })),
            "axes": named("Named lists of values; their product makes the points", axis()),
            "exclude": named("Points that are dropped", json!({
                "type": "object",
                "additionalProperties": false,
                "required": ["where"],
                "properties": { "where": selection("The points to drop; every entry must hold") },
            })),
            "ablations": named("Named differences from the base, applied on top of the axes", ablation()),
            "comparisons": named("Statistics over one step per point of a selection", json!({ "type": "object" })),
            "tables": named("Numbers read from runs and comparisons", table()),
            "run": run(),
            "profiles": named("Named layers above the file, chosen with `--profile`", json!({ "type": "object" })),
        },
    })
}

fn named(description: &str, each: Value) -> Value {
    json!({ "type": "object", "description": description, "additionalProperties": each })
}

fn text(description: &str) -> Value {
    json!({ "type": "string", "minLength": 1, "description": description })
}

fn names(description: &str) -> Value {
    let name = json!({ "type": "string", "minLength": 1 });
    json!({ "description": description, "anyOf": [name, { "type": "array", "items": name, "minItems": 1 }] })
}

/// `{ axis = label }` or `{ axis = [labels] }`.
pub(super) fn selection(description: &str) -> Value {
    let label = json!({ "type": ["string", "number", "boolean"] });
    json!({
        "type": "object",
        "description": description,
        "x-selection": true,
        "additionalProperties": { "anyOf": [label, { "type": "array", "items": label, "minItems": 1 }] },
    })
}

fn data() -> Value {
    json!({
        "type": "object",
        "additionalProperties": false,
        "required": ["path"],
        "properties": {
            "path": text("A file or folder, relative to the working folder"),
            "kind": text("The artifact kind that it serves as, so that joining wrong kinds fails at load"),
        },
    })
}

fn model() -> Value {
    json!({
        "type": "object",
        "additionalProperties": false,
        "properties": {
            "path": text("A file or folder, relative to the working folder"),
            "hub": {
                "type": "string",
                "description": "A repository of the Hugging Face hub, `owner/name`",
                "pattern": "^[A-Za-z0-9._-]+/[A-Za-z0-9._-]+$",
            },
            "revision": text("The commit (40 hex digits) or branch; a branch is resolved once into soctok.lock"),
            "kind": text("The artifact kind that it serves as: `language_model`, `encoder`, `projector`, …"),
        },
    })
}

fn axis() -> Value {
    json!({
        "type": "object",
        "additionalProperties": false,
        "required": ["values"],
        "properties": {
            "to": names("The fields that each value sets, as `stage.field`; left out when `values` is a table of bundles"),
            "values": {
                "description": "The values, or bundles: label -> settings `{ \"stage.field\" = value }`",
                "anyOf": [
                    { "type": "array", "minItems": 1 },
                    { "type": "object", "additionalProperties": { "type": "object" } },
                ],
            },
        },
    })
}

fn ablation() -> Value {
    json!({
        "type": "object",
        "additionalProperties": false,
        "properties": {
            "set": { "type": "object", "description": "What differs: `{ \"stage.field\" = value }`" },
            "where": selection("The points that it applies to; all when left out"),
            "combine": names("Ablations applied together under this name"),
            "over_axis": {
                "type": "boolean",
                "default": false,
                "description": "Whether it may set a field that an axis sets",
            },
        },
    })
}

fn table() -> Value {
    let published = json!({
        "type": "object",
        "additionalProperties": false,
        "required": ["where", "value"],
        "properties": {
            "where": selection("The cell; the base unless it names an `ablation`"),
            "value": { "type": "number", "description": "The published value" },
            "figure": text("Which figure of `value` it is, as `stage.figure`; needed when the table shows several"),
            "tolerance": {
                "type": "number",
                "minimum": 0,
                "description": "How far ours may be off; left out, the value stands beside ours and is no check",
            },
            "source": text("Where it was published"),
            "note": text("What the number is worth"),
        },
    });
    json!({
        "type": "object",
        "additionalProperties": false,
        "required": ["value"],
        "properties": {
            "value": names("The figure or figures shown, as `stage.figure` or `comparison.figure`"),
            "rows": names("Axes, or `ablation`, that make the rows"),
            "columns": names("Axes, or `ablation`, that make the columns"),
            "over": names("Axes that are averaged over"),
            "where": selection("The points shown; all when left out"),
            "published": named("Published values beside the cells", published),
        },
    })
}

fn run() -> Value {
    json!({
        "type": "object",
        "description": "How to run; changes no result",
        "additionalProperties": false,
        "properties": {
            "store": { "type": "string", "minLength": 1, "default": "soctok-store", "description": "The store's folder" },
            "device": {
                "type": "string",
                "default": "auto",
                "description": "`cpu`, `cuda:0`, `tch:cpu`, `tch:cuda:0` or `auto`",
                "pattern": "^(auto|(tch:)?(cpu|cuda:[0-9]+))$",
            },
            "jobs": { "type": "integer", "minimum": 1, "default": 1, "description": "Steps at once" },
            "memory": {
                "type": "number",
                "exclusiveMinimum": 0,
                "description": "Gigabytes (10^9 bytes) that steps may use; what the device has when left out",
            },
            "keep_going": {
                "type": "boolean",
                "default": true,
                "description": "Whether steps that do not need a failed one still run",
            },
            "retries": {
                "type": "integer",
                "minimum": 0,
                "default": 0,
                "description": "How often a step that failed for a cause in `retry_on` is tried again",
            },
            "retry_on": {
                "type": "array",
                "items": { "enum": ["io", "stage", "panic"] },
                "default": ["io"],
                "description": "`io`: a file could not be read or written; `stage`: the stage reported an error, or a program failed; `panic`: a mistake in soctok",
            },
            "checkpoint_seconds": {
                "type": "number",
                "exclusiveMinimum": 0,
                "default": CHECKPOINT_INTERVAL.as_secs(),
                "description": "Time between two checkpoints of a training step: what a kill can cost",
            },
            "targets": names("Stages to reach; the sinks of the graph when left out"),
        },
    })
}
