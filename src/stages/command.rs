//! `command`: any program with declared inputs and outputs, so that a script of yours fits the graph.
//!
//! The program is started without a shell, in the folder of its outputs, with an environment of its own. What it is
//! comes from its settings and the bytes of its inputs alone: a program that is no input needs a `version`. After it, the
//! declared outputs must be there and nothing else. `docs/command.md` is the manual.

use std::collections::BTreeMap;
use std::path::{Component, Path};
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Context, Inputs, Reference, Result, Stage, StageError, Summary};
use template::{Part, parse};

mod process;
mod template;

/// See the module.
pub struct Command;

/// Settings of `command`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The program and its arguments, each an item of its own; no shell reads them. `{input:NAME}` is the path of an
    /// input, `{value:NAME}` a value, `{output}` the folder of the outputs, `{output:FILE}` a declared output, `{scratch}` a
    /// folder that survives an interruption, `{device}` the device; `{{` and `}}` are braces.
    #[schemars(length(min = 1))]
    pub command: Vec<String>,
    /// The version of a program that is not one of the inputs (`python 3.11`): change it and the step runs again.
    #[serde(default)]
    pub version: Option<String>,
    /// What the program reads, the script itself included: name → reference.
    #[serde(default)]
    #[schemars(extend("x-accepts" = ["any"]))]
    pub inputs: BTreeMap<String, Reference>,
    /// Values for its arguments: name → text, number or truth value. Axes set them as `stage.values.NAME`.
    #[serde(default)]
    pub values: BTreeMap<String, Scalar>,
    /// The files that it leaves, relative to the folder that it runs in; `folder/` stands for all files below a folder.
    #[serde(default)]
    pub outputs: Vec<String>,
    /// The artifact kinds that its folder serves as to the stages after it.
    #[serde(default)]
    #[schemars(extend("x-gives" = true, "x-key" = false))]
    pub gives: Vec<String>,
    /// Environment variables that it gets, with their values.
    #[serde(default)]
    pub environment: BTreeMap<String, String>,
    /// Environment variables that it gets with the values that soctok has. Their values are no part of the step's key.
    #[serde(default)]
    pub pass: Vec<String>,
    /// Seconds between asking it to stop and ending it.
    #[serde(default = "grace")]
    #[schemars(range(min = 0.0, max = 3600.0), extend("x-key" = false))]
    pub grace: f64,
}

/// A value of an argument.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Scalar {
    /// `true` or `false`.
    Truth(bool),
    /// A whole number.
    Whole(i64),
    /// A number with a point.
    Number(f64),
    /// Text.
    Text(String),
}

impl std::fmt::Display for Scalar {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Truth(value) => value.fmt(formatter),
            Self::Whole(value) => value.fmt(formatter),
            Self::Number(value) => value.fmt(formatter),
            Self::Text(value) => value.fmt(formatter),
        }
    }
}

fn grace() -> f64 {
    10.0
}

/// Files of a step's folder that soctok keeps itself.
const RESERVED: [&str; 3] = ["step.json", "log.txt", "summary.json"];
/// Files that a program may leave without declaring them: figures and metrics.
const OPTIONAL: [&str; 2] = ["summary.json", "metrics.jsonl"];

impl Stage for Command {
    const KIND: &'static str = "command";
    const VERSION: u32 = 1;
    const SUMMARY: &'static str = "Runs a program of yours with declared inputs and outputs";
    const GIVES: &'static [&'static str] = &[];
    type Config = Config;

    fn check(config: &Config) -> Result<()> {
        check_command(config)?;
        check_outputs(&config.outputs)?;
        let names = config.environment.keys().chain(&config.pass);
        for name in names {
            if name.is_empty() || name.contains(['=', '\0']) {
                let hint = "a name has neither `=` nor zero bytes; values stand in `environment`";
                return Err(StageError::hint(format!("`{name}` is no environment variable"), hint));
            }
        }
        if let Some(name) = config.pass.iter().find(|name| config.environment.contains_key(*name)) {
            let hint = "keep it in one of the two";
            return Err(StageError::hint(format!("`{name}` stands in `environment` and in `pass`"), hint));
        }
        Ok(())
    }

    fn run(config: &Config, inputs: &Inputs, context: &Context) -> Result<Summary> {
        let folder = std::path::absolute(context.folder()).map_err(StageError::io(context.folder()))?;
        for output in &config.outputs {
            let path = folder.join(output);
            let parent = if output.ends_with('/') { Some(path.as_path()) } else { path.parent() };
            if let Some(parent) = parent {
                std::fs::create_dir_all(parent).map_err(StageError::io(parent))?;
            }
        }
        let arguments = config
            .command
            .iter()
            .map(|argument| expand(argument, config, inputs, context, &folder))
            .collect::<Result<Vec<String>>>()?;
        let called = process::Call {
            arguments: &arguments,
            folder: &folder,
            environment: &config.environment,
            pass: &config.pass,
            grace: Duration::from_secs_f64(config.grace),
        };
        process::run(&called, context)?;
        let summary = summary(&folder)?;
        check_written(&config.outputs, &folder)?;
        Ok(summary)
    }
}

/// Every placeholder leads somewhere, every value is used, and the program is known by its bytes or by its version.
fn check_command(config: &Config) -> Result<()> {
    let mut used = Vec::new();
    for argument in &config.command {
        for part in parse(argument)? {
            let (space, name, known): (_, _, Vec<&String>) = match part {
                Part::Input(name) => ("inputs", name, config.inputs.keys().collect()),
                Part::Value(name) => {
                    used.push(name.clone());
                    ("values", name, config.values.keys().collect())
                }
                Part::Output(Some(name)) => ("outputs", name, config.outputs.iter().collect()),
                _ => continue,
            };
            if !known.contains(&&name) {
                let known: Vec<String> = known.into_iter().map(|name| format!("`{name}`")).collect();
                let hint = match known.is_empty() {
                    true => format!("add it to `{space}`"),
                    false => format!("`{space}` has {}", known.join(", ")),
                };
                return Err(StageError::hint(format!("`{argument}` names `{name}`, which `{space}` has not"), hint));
            }
        }
    }
    if let Some(name) = config.values.keys().find(|name| !used.contains(name)) {
        let hint = format!("write `{{value:{name}}}` into `command`, or take the value away");
        return Err(StageError::hint(format!("no argument uses `values.{name}`"), hint));
    }
    let program = config.command.first().map(String::as_str).unwrap_or_default();
    let is_input = matches!(parse(program)?.first(), Some(Part::Input(_)));
    if program.is_empty() {
        return Err(StageError::hint("the program's name is empty", "the first item of `command` is the program"));
    }
    if !is_input && program.contains('/') && !program.starts_with('/') {
        let hint = "give the program as an input (`inputs = { program = \"data:NAME\" }`) and write `{input:program}`: then \
                    its bytes count";
        return Err(StageError::hint(format!("`{program}` is a path relative to nothing that is known"), hint));
    }
    if !is_input && config.version.as_deref().is_none_or(|version| version.trim().is_empty()) {
        let hint = "add `version = \"…\"` (what the program says to `--version`), or give the program as an input and write \
                    `{input:NAME}`: then its bytes count";
        return Err(StageError::hint(format!("nothing says which `{program}` this is"), hint));
    }
    Ok(())
}

/// Names of outputs: relative, plain, each once, none of soctok's own.
fn check_outputs(outputs: &[String]) -> Result<()> {
    for (index, output) in outputs.iter().enumerate() {
        let path = output.strip_suffix('/').unwrap_or(output);
        let is_plain = !path.is_empty() && path.split('/').all(|part| !matches!(part, "" | "." | ".."));
        if !is_plain || Path::new(path).components().any(|part| !matches!(part, Component::Normal(_))) {
            let hint = "an output is a path below the folder that the program runs in, as in `table.csv` or `frames/`";
            return Err(StageError::hint(format!("`{output}` is no output"), hint));
        }
        if RESERVED.contains(&path) || path == "metrics.jsonl" {
            let hint = match path {
                "summary.json" => "figures in `summary.json` are read without being declared; take it out of `outputs`",
                "metrics.jsonl" => "`metrics.jsonl` may be written without being declared; take it out of `outputs`",
                _ => "give the output another name",
            };
            return Err(StageError::hint(format!("`{output}` is a file of soctok's own"), hint));
        }
        let within = |folder: &String| folder.ends_with('/') && output.starts_with(folder.as_str());
        let twice = outputs.iter().enumerate().any(|(other, name)| other < index && name == output);
        if twice || outputs.iter().any(|folder| folder != output && within(folder)) {
            return Err(StageError::hint(format!("`{output}` is declared twice"), "name each output once"));
        }
    }
    Ok(())
}

/// An argument with its placeholders filled in.
fn expand(argument: &str, config: &Config, inputs: &Inputs, context: &Context, folder: &Path) -> Result<String> {
    let mut text = String::new();
    for part in parse(argument)? {
        match part {
            Part::Text(part) => text.push_str(&part),
            Part::Input(name) => text.push_str(&absolute(&inputs.get(&format!("inputs.{name}"))?.path)?),
            Part::Value(name) => {
                let value = config.values.get(&name);
                text.push_str(&value.map(Scalar::to_string).unwrap_or_default());
            }
            Part::Output(None) => text.push_str(&absolute(folder)?),
            Part::Output(Some(name)) => text.push_str(&absolute(&folder.join(name))?),
            Part::Scratch => text.push_str(&absolute(context.scratch()?)?),
            Part::Device => text.push_str(context.device()),
        }
    }
    Ok(text)
}

fn absolute(path: &Path) -> Result<String> {
    let path = std::path::absolute(path).map_err(StageError::io(path))?;
    match path.to_str() {
        Some(text) => Ok(text.to_owned()),
        None => Err(StageError::hint(
            format!("`{}` cannot be written as text", path.display()),
            "rename the folder: an argument is UTF-8",
        )),
    }
}

/// The figures that the program left in `summary.json`.
fn summary(folder: &Path) -> Result<Summary> {
    let path = folder.join("summary.json");
    let bytes = match std::fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Summary::new()),
        Err(error) => return Err(StageError::io(&path)(error)),
    };
    let hint = "it is one table of figures: `{\"accuracy\": 0.5}`, each a finite number, text, a truth value or null";
    let figures: Summary = serde_json::from_slice(&bytes)
        .map_err(|error| StageError::hint(format!("the program's `summary.json`: {error}"), hint))?;
    match figures.iter().find(|(_, value)| matches!(value, Value::Array(_) | Value::Object(_))) {
        Some((name, _)) => {
            Err(StageError::hint(format!("`{name}` in the program's `summary.json` is no figure"), hint))
        }
        None => Ok(figures),
    }
}

/// Every declared output is there, and nothing else.
fn check_written(outputs: &[String], folder: &Path) -> Result<()> {
    let mut left: Vec<&String> = outputs.iter().collect();
    for entry in walkdir::WalkDir::new(folder).sort_by_file_name() {
        let entry = entry.map_err(|error| StageError::new(format!("the program's outputs: {error}")))?;
        if entry.file_type().is_dir() {
            continue;
        }
        let path = entry.path().strip_prefix(folder).unwrap_or(entry.path());
        let Some(name) = path.to_str().map(str::to_owned) else {
            let hint = "the record of a step names its files in UTF-8";
            return Err(StageError::hint(
                format!("the program left `{}`, whose name is no text", path.display()),
                hint,
            ));
        };
        if !entry.file_type().is_file() {
            let hint = "outputs are plain files: links and pipes would not be kept with the step";
            return Err(StageError::hint(format!("the program left `{name}`, which is no plain file"), hint));
        }
        let declared = outputs
            .iter()
            .find(|output| output.as_str() == name || output.ends_with('/') && name.starts_with(output.as_str()));
        match declared {
            Some(output) => left.retain(|other| *other != output),
            None if name == "log.txt" || OPTIONAL.contains(&name.as_str()) => {}
            None => {
                let hint = "add it to `outputs`, or let the program write it into `{scratch}`";
                return Err(StageError::hint(format!("the program left `{name}`, which `outputs` has not"), hint));
            }
        }
    }
    match left.first() {
        None => Ok(()),
        Some(missing) => {
            let what = if missing.ends_with('/') { "no file below" } else { "no" };
            let hint = "the program runs in the folder of its outputs: write there, or to `{output:FILE}`";
            Err(StageError::hint(format!("the program left {what} `{missing}`"), hint))
        }
    }
}
