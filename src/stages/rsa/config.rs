//! Settings of `rsa`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::super::Reference;
use super::super::embedded::Compared;
use crate::social::pooling::Pool;
use crate::stats::defaults;
use crate::stats::inference::Settings;
use crate::stats::permutation::Side;
use crate::stats::random::Streams;
use crate::stats::ranks::Statistic;
use crate::stats::rsm::Similarity;
use crate::stats::triplets::Repeats;

/// What to do with pairs that nobody judged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Unobserved {
    /// Leave them out.
    #[default]
    Mask,
    /// Take their similarity as 0 (the original).
    Zero,
}

/// Which clips to compare.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Clips {
    /// Every judged clip; each must have a vector.
    #[default]
    Judged,
    /// The judged clips that have a vector.
    Common,
}

/// How much a pair counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Weight {
    /// Every judged pair the same.
    #[default]
    Equal,
    /// As often as it was judged; needs trials.
    Judgments,
}

/// Whose vectors (or whose row and column of `matrix`) a clip gets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Labels {
    /// Its own.
    #[default]
    Own,
    /// Those of the clip that a random order of the judged clips, from `labels_seed`, puts in its place: one draw of what
    /// chance gives. `pairing.csv` tells who got whose.
    Permuted,
}

impl Labels {
    /// Of every clip the one whose vectors it gets. `part` names the random stream.
    pub(in super::super) fn sources(self, clips: &[String], seed: u64, part: &str) -> Vec<String> {
        match self {
            Self::Own => clips.to_vec(),
            Self::Permuted => {
                let order = Streams::new(seed, "rsa").named(part).permutation(clips.len());
                order.into_iter().map(|place| clips[place].clone()).collect()
            }
        }
    }
}

/// Settings of `rsa`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Whose similarity is compared.
    #[serde(flatten)]
    pub compared: Compared,
    /// Human judgments: a square matrix as CSV with a header of clips (with or without a column of their names; an empty
    /// cell is a pair that nobody judged), trials (`clip_1,clip_2,clip_3,odd_one`, or `stim1_name,…,choice`), or a
    /// folder with `triplets.csv` (which tells what nobody judged) or `rsm.csv`.
    #[schemars(extend("x-accepts" = ["judgments"]))]
    pub human: Reference,
    /// Of a folder given as `human`, this file.
    #[serde(default)]
    pub human_file: Option<String>,
    /// A CSV of `index,clip_id` for judgments that name clips by number.
    #[serde(default)]
    #[schemars(extend("x-accepts" = ["split"]))]
    pub names: Option<Reference>,
    /// Which positions the vectors are means of.
    #[serde(default = "pool")]
    pub pool: Pool,
    /// Leave BOS out of the pools that hold it (`all`, `exclude_soc`).
    #[serde(default)]
    pub exclude_bos: bool,
    /// The layer fixed beforehand: `last`, a number, or a module as `layers.16.self_attn.v_proj` (the original's
    /// `Linear-6-131`).
    #[serde(default = "layer")]
    #[schemars(regex(pattern = r"^[A-Za-z0-9_.-]+$"))]
    pub layer: String,
    /// The layers of the curve, among which cross-validation and the maximum choose; left out, all that are embedded.
    #[serde(default)]
    pub layers: Option<Vec<String>>,
    /// How vectors are compared.
    #[serde(default)]
    pub similarity: Similarity,
    /// The statistic that is tested, resampled and chosen by; all three are given.
    #[serde(default)]
    pub statistic: Statistic,
    /// What to do with pairs that nobody judged.
    #[serde(default)]
    pub unobserved: Unobserved,
    /// How much a pair counts.
    #[serde(default)]
    pub weight: Weight,
    /// What becomes of trials that show the same clip twice.
    #[serde(default)]
    pub repeats: Repeats,
    /// Which clips to compare.
    #[serde(default)]
    pub clips: Clips,
    /// Whose vectors a clip gets: a control.
    #[serde(default)]
    pub labels: Labels,
    /// Draws the order of permuted labels.
    #[serde(default)]
    pub labels_seed: u64,
    /// Which clip is in which split; needed with `held_out`.
    #[serde(default)]
    #[schemars(extend("x-accepts" = ["split"]))]
    pub splits: Option<Reference>,
    /// A split that all else leaves out, and on which the layer that is best without it is scored in the end.
    #[serde(default)]
    pub held_out: Option<String>,
    /// Which permuted scores count as extreme.
    #[serde(default)]
    pub side: Side,
    /// Permutations of clip labels (0: no p values).
    #[serde(default = "defaults::draws")]
    #[schemars(range(max = 10_000_000))]
    pub permutations: usize,
    /// Bootstrap draws of clips (0: no intervals).
    #[serde(default = "defaults::draws")]
    #[schemars(range(max = 10_000_000))]
    pub replicates: usize,
    /// Permutations and bootstrap draws of the cross-validated score, in each of which layers are chosen anew.
    #[serde(default = "defaults::cv_draws")]
    #[schemars(range(max = 10_000_000))]
    pub cv_draws: usize,
    /// Folds of clips for the cross-validated choice of a layer.
    #[serde(default = "defaults::folds")]
    #[schemars(range(min = 2, max = 1000))]
    pub folds: usize,
    /// Share of the draws inside an interval.
    #[serde(default = "defaults::confidence")]
    #[schemars(range(min = 0.5, max = 0.9999))]
    pub confidence: f64,
    /// Random splits of participants for the noise ceiling (0: none).
    #[serde(default = "ceiling_splits")]
    #[schemars(range(max = 100_000))]
    pub ceiling_splits: usize,
    /// Seed of permutations, draws, folds and splits of participants.
    #[serde(default)]
    pub rsa_seed: u64,
    /// Compare clips that the encoder behind the vectors was trained on (where its `seen_clips.csv` tells).
    #[serde(default)]
    pub allow_seen_clips: bool,
}

/// The default of every `pool`.
pub(in super::super) fn pool() -> Pool {
    Pool::All
}

/// The default of every `layer`.
pub(in super::super) fn layer() -> String {
    "last".to_owned()
}

fn ceiling_splits() -> usize {
    20
}

impl Config {
    /// Sets what only vectors have back to its default.
    pub(super) fn ignore_vectors(&mut self) {
        (self.pool, self.exclude_bos, self.similarity) = (pool(), false, Similarity::default());
        (self.layer, self.layers, self.allow_seen_clips) = (layer(), None, false);
    }

    pub(super) fn settings(&self) -> Settings {
        Settings {
            statistic: self.statistic,
            side: self.side,
            permutations: self.permutations,
            replicates: self.replicates,
            cv_draws: self.cv_draws,
            folds: self.folds,
            confidence: self.confidence,
            seed: self.rsa_seed,
        }
    }
}
