//! The scored targets of an arm: `targets.csv` of `perplexity`, read once per artifact.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use super::scores::Cluster;
use crate::social::columns::{Columns, broken};
use crate::stages::{Result, StageError};

/// One artifact's column with what identifies its rows.
pub(super) struct Table {
    /// Clip, utterance, target and token of each row.
    pub keys: Vec<String>,
    /// Bits.
    pub bits: Vec<f64>,
    /// Number of the cluster of each row, in order of appearance.
    pub clusters: Vec<usize>,
    /// Words and captions of each cluster.
    pub sizes: Vec<(f64, f64)>,
}

/// The tables of a comparison.
pub(super) struct Tables {
    column: String,
    cluster: Cluster,
    read: HashMap<PathBuf, Rc<Table>>,
}

impl Tables {
    /// `column` of every artifact that is asked for.
    pub fn new(column: &str, cluster: Cluster) -> Self {
        Self { column: column.to_owned(), cluster, read: HashMap::new() }
    }

    /// The table of an artifact.
    pub fn get(&mut self, artifact: &Path) -> Result<Rc<Table>> {
        if let Some(table) = self.read.get(artifact) {
            return Ok(table.clone());
        }
        let table = Rc::new(self.parse(&artifact.join("targets.csv"))?);
        self.read.insert(artifact.to_owned(), table.clone());
        Ok(table)
    }

    /// The table of an artifact, whose rows must be those of `first`.
    pub fn like(&mut self, artifact: &Path, first: &(Rc<Table>, PathBuf)) -> Result<Rc<Table>> {
        let table = self.get(artifact)?;
        if table.keys == first.0.keys { Ok(table) } else { Err(other_targets(&first.0, &table, &first.1, artifact)) }
    }

    fn parse(&self, path: &Path) -> Result<Table> {
        let mut reader = csv::Reader::from_path(path).map_err(|error| broken(path, &error))?;
        let columns = Columns::of(path, &mut reader)?;
        let identity = ["clip_id", "utterance", "target", "token"].map(|name| columns.need(name));
        let [clip, utterance, target, token] = identity;
        let (clip, utterance, target, token) = (clip?, utterance?, target?, token?);
        let (group, word, value) = (columns.need("group")?, columns.need("word")?, columns.need(&self.column)?);
        let cluster = if self.cluster == Cluster::Clip { clip } else { group };
        // `nll` is in nats; every other column of scores is in bits.
        let unit = if self.column == "nll" { std::f64::consts::LN_2.recip() } else { 1.0 };
        let mut table = Table { keys: Vec::new(), bits: Vec::new(), clusters: Vec::new(), sizes: Vec::new() };
        let mut numbers: HashMap<String, usize> = HashMap::new();
        let (mut words, mut captions) = (BTreeSet::new(), BTreeSet::new());
        for row in reader.records() {
            let row = row.map_err(|error| broken(path, &error))?;
            let text = &row[value];
            let value: f64 = text.parse().map_err(|_| {
                StageError::new(format!("`{}`: `{text}` in column `{}` is no number", path.display(), self.column))
            })?;
            let number = *numbers.entry(row[cluster].to_owned()).or_insert_with(|| {
                table.sizes.push((0.0, 0.0));
                table.sizes.len() - 1
            });
            let caption = format!("{}\u{1f}{}", &row[clip], &row[utterance]);
            if !row[word].is_empty() && words.insert(format!("{caption}\u{1f}{}", &row[word])) {
                table.sizes[number].0 += 1.0;
            }
            table.keys.push(format!("{caption}\u{1f}{}\u{1f}{}", &row[target], &row[token]));
            if captions.insert(caption) {
                table.sizes[number].1 += 1.0;
            }
            table.bits.push(value * unit);
            table.clusters.push(number);
        }
        if table.bits.is_empty() {
            return Err(StageError::new(format!("`{}` has no targets", path.display())));
        }
        Ok(table)
    }
}

fn other_targets(first: &Table, other: &Table, left: &Path, right: &Path) -> StageError {
    let place =
        first.keys.iter().zip(&other.keys).position(|(a, b)| a != b).unwrap_or(first.keys.len().min(other.keys.len()));
    let show =
        |table: &Table| table.keys.get(place).map_or_else(|| "nothing".to_owned(), |key| key.replace('\u{1f}', ", "));
    StageError::hint(
        format!(
            "the arms score other targets: row {} is `{}` in `{}` and `{}` in `{}` (clip, utterance, target, token)",
            place + 1,
            show(first),
            left.display(),
            show(other),
            right.display()
        ),
        "give both arms the same text, split, `samples`, `bos`, `label_eos`, tags and lead-in",
    )
}
