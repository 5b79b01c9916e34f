//! `note`: writes its text. For docs, tests and benches of the runner itself.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Context, Estimate, Expected, Inputs, Reference, Result, Stage, StageError, Summary};

/// See the module.
pub struct Note;

/// Settings of `note`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// What to write.
    pub text: String,
    /// Another note to write before this one.
    #[serde(default)]
    #[schemars(extend("x-accepts" = ["note"]))]
    pub after: Option<Reference>,
}

impl Stage for Note {
    const KIND: &'static str = "note";
    const VERSION: u32 = 1;
    const SUMMARY: &'static str = "Writes its text to `note.txt`, after the text of another note if one is given";
    const GIVES: &'static [&'static str] = &["note"];
    type Config = Config;

    fn estimate(_config: &Config, _inputs: &Expected) -> Estimate {
        Estimate { items: Some(1), ..Estimate::default() }
    }

    fn run(config: &Config, inputs: &Inputs, context: &Context) -> Result<Summary> {
        let mut text = String::new();
        if let Some(input) = inputs.optional("after") {
            let path = input.path.join("note.txt");
            text = std::fs::read_to_string(&path).map_err(StageError::io(&path))?;
        }
        text.push_str(&config.text);
        text.push('\n');
        let path = context.folder().join("note.txt");
        std::fs::write(&path, &text).map_err(StageError::io(&path))?;
        let mut summary = Summary::new();
        summary.insert("characters".into(), text.chars().count().into());
        Ok(summary)
    }
}
