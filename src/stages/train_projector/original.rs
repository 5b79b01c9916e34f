//! `metrics.csv` with the columns of the original project (its `write_metric_row`), made of `metrics.jsonl`.
//!
//! A row per step (`step` counts from 1 within the epoch) and, with `step` −1, one per epoch for training and one for
//! validation. `ppl` is exp(min(20, loss)). `g_has` and `l_has` count the epoch's samples with a global and with a local
//! token so far. Times, speed and memory stay empty, because the same settings must give the same bytes; so do the columns
//! of evaluations that are no part of training (`val_ppl_no_vis`, `test_…`).

use std::path::Path;

use serde_json::Value;

use crate::social::columns::broken;
use crate::social::prompt::Inject;
use crate::stages::{Result, StageError};

/// As the original writes it at the time of the paper.
const HEADER: [&str; 18] = [
    "split",
    "epoch",
    "step",
    "loss",
    "ppl",
    "tokens",
    "tok_per_s",
    "dt_s",
    "lr_proj",
    "lr_dino",
    "gpu_mem_mb",
    "g_has",
    "l_has",
    "ablation_mode",
    "val_ppl_vis",
    "val_ppl_no_vis",
    "test_ppl_vis",
    "test_ppl_no_vis",
];

/// Sums over an epoch.
#[derive(Default)]
struct Epoch {
    nats: f64,
    targets: f64,
    with_global: u64,
    with_local: u64,
}

/// Writes `metrics.csv` beside the `metrics.jsonl` of `folder`. `per_epoch` is the number of steps of an epoch.
pub(super) fn write(folder: &Path, inject: Inject, per_epoch: u64) -> Result<()> {
    let source = folder.join("metrics.jsonl");
    let text = std::fs::read_to_string(&source).map_err(StageError::io(&source))?;
    let path = folder.join("metrics.csv");
    let mut out = csv::Writer::from_path(&path).map_err(|error| broken(&path, &error))?;
    out.write_record(HEADER).map_err(|error| broken(&path, &error))?;
    let mode = match inject {
        Inject::None => "none",
        Inject::Global => "global_only",
        Inject::Local => "local_only",
        Inject::Full => "both",
    };
    let mut row = |cells: &[(&str, String)]| {
        let cell = |name: &str| cells.iter().find(|(known, _)| *known == name).map_or("", |(_, text)| text.as_str());
        out.write_record(HEADER.map(cell)).map_err(|error| broken(&path, &error))
    };
    let mut sums = Epoch::default();
    let lines: Vec<Value> = text
        .lines()
        .map(serde_json::from_str)
        .collect::<std::result::Result<_, _>>()
        .map_err(|error| StageError::new(format!("`{}`: {error}", source.display())))?;
    for (place, line) in lines.iter().enumerate() {
        let number = |name: &str| line[name].as_f64().unwrap_or_default();
        let count = |name: &str| line[name].as_u64().unwrap_or_default();
        let epoch = count("epoch");
        if let Some(loss) = line["validation_loss"].as_f64() {
            row(&[
                ("split", "val".into()),
                ("epoch", epoch.to_string()),
                ("step", "-1".into()),
                ("loss", loss.to_string()),
                ("ppl", perplexity(loss)),
                ("ablation_mode", mode.into()),
                ("val_ppl_vis", perplexity(loss)),
            ])?;
            continue;
        }
        sums.nats += number("loss") * number("targets");
        sums.targets += number("targets");
        sums.with_global += count("with_global");
        sums.with_local += count("with_local");
        row(&[
            ("split", "train".into()),
            ("epoch", epoch.to_string()),
            ("step", (count("step") % per_epoch + 1).to_string()),
            ("loss", number("loss").to_string()),
            ("ppl", perplexity(number("loss"))),
            ("tokens", count("tokens").to_string()),
            ("lr_proj", number("lr").to_string()),
            ("lr_dino", "0".into()),
            ("g_has", sums.with_global.to_string()),
            ("l_has", sums.with_local.to_string()),
            ("ablation_mode", mode.into()),
        ])?;
        let ends = lines.get(place + 1).is_none_or(|next| {
            !next["validation_loss"].is_null() || next["epoch"].as_u64().is_none_or(|next| next != epoch)
        });
        if ends {
            let loss = sums.nats / sums.targets;
            row(&[
                ("split", "train".into()),
                ("epoch", epoch.to_string()),
                ("step", "-1".into()),
                ("loss", loss.to_string()),
                ("ppl", perplexity(loss)),
                ("g_has", sums.with_global.to_string()),
                ("l_has", sums.with_local.to_string()),
                ("ablation_mode", mode.into()),
            ])?;
            sums = Epoch::default();
        }
    }
    out.flush().map_err(StageError::io(&path))
}

/// exp(min(20, loss)) as the original writes it. A loss that is not finite never comes here: it stops the step.
fn perplexity(loss: f64) -> String {
    loss.min(20.0).exp().to_string()
}
