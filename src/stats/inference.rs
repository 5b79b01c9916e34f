//! What is said of a model's layers against judged similarity: scores, intervals, p values, and which layer to believe.
//!
//! Three ways to one number: a layer fixed beforehand; a layer chosen by cross-validation over stimuli; and the best of
//! all layers, which is selected on the very data that it is then scored on. The null of the best takes the best under
//! every permutation too, so that its p is honest; its score stays too high.

use serde::{Deserialize, Serialize};

use super::pairs::{Judged, Modelled, Scorer};
use super::permutation::{self, Null, Side};
use super::random::Streams;
use super::ranks::Statistic;
use super::stimuli::{self, CrossValidated};

/// How scores are made and tested.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The statistic that is tested, chosen by and resampled.
    pub statistic: Statistic,
    /// Which permuted scores count against it.
    pub side: Side,
    /// Permutations of labels; 0 for no p values.
    pub permutations: usize,
    /// Bootstrap draws of stimuli; 0 for no intervals.
    pub replicates: usize,
    /// Permutations and bootstrap draws of the cross-validated score: at most this many of the others.
    pub cv_draws: usize,
    /// Folds of the cross-validated choice of a layer.
    pub folds: usize,
    /// Share of the draws inside an interval.
    pub confidence: f64,
    /// Names permutations, draws and folds.
    pub seed: u64,
}

/// Figures of one layer; `None` where a score is not defined or was not asked for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LayerFigures {
    /// Spearman's correlation.
    pub spearman: Option<f64>,
    /// ρ-a.
    pub rho_a: Option<f64>,
    /// Kendall's τ-a.
    pub kendall_tau_a: Option<f64>,
    /// The interval of the chosen statistic.
    pub low: Option<f64>,
    /// Its upper end.
    pub high: Option<f64>,
    /// Permutation p of the chosen statistic, for this layer alone.
    pub p_value: Option<f64>,
    /// p against the largest of all layers under each permutation: holds for all layers together.
    pub p_of_all: Option<f64>,
}

impl LayerFigures {
    /// The score by that statistic.
    pub fn score(&self, statistic: Statistic) -> Option<f64> {
        match statistic {
            Statistic::Spearman => self.spearman,
            Statistic::RhoA => self.rho_a,
            Statistic::KendallTauA => self.kendall_tau_a,
        }
    }
}

/// The score of a layer that was chosen without the stimuli that it is scored on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Chosen {
    /// Mean over folds of the held-out score.
    pub score: f64,
    /// Its interval; the layer is chosen anew in every draw.
    pub low: Option<f64>,
    /// Its upper end.
    pub high: Option<f64>,
    /// p from permuted labels; the layer is chosen anew under every permutation.
    pub p_value: Option<f64>,
    /// Number of the layer chosen without each fold.
    pub layers: Vec<usize>,
}

/// One judged side with its models, and the random streams that all conditions share.
pub struct Inference<'a> {
    judged: &'a Judged,
    settings: &'a Settings,
    streams: Streams,
}

impl<'a> Inference<'a> {
    /// Streams depend on the seed alone: another condition with as many stimuli has the same permutations, draws and
    /// folds.
    pub fn new(judged: &'a Judged, settings: &'a Settings) -> Self {
        Self { judged, settings, streams: Streams::new(settings.seed, "rsa") }
    }

    /// Scores of models by `statistic`; `None` where a side does not vary.
    pub fn scores(&self, models: &[Modelled], statistic: Statistic) -> Vec<Option<f64>> {
        let times = vec![1; self.judged.stimuli()];
        let mut scorer = Scorer::new(self.judged, statistic);
        if scorer.draw(&times).is_none() {
            return vec![None; models.len()];
        }
        models.iter().map(|model| scorer.score(model, &times)).collect()
    }

    /// Scores under permuted labels.
    pub fn null(&self, models: &[Modelled]) -> Null {
        let Settings { statistic, permutations, .. } = *self.settings;
        permutation::null(self.judged, models, statistic, permutations, &self.streams)
    }

    /// Scores under bootstrap draws, `[replicates][models]`.
    pub fn replicates(&self, models: &[Modelled]) -> Vec<Vec<f64>> {
        let Settings { statistic, replicates, .. } = *self.settings;
        stimuli::replicates(self.judged, models, statistic, replicates, &self.streams)
    }

    /// Figures of every layer.
    pub fn layers(&self, models: &[Modelled]) -> Vec<LayerFigures> {
        let Settings { statistic, side, permutations, confidence, .. } = *self.settings;
        let scores = Statistic::ALL.map(|statistic| self.scores(models, statistic));
        let (null, draws) = (self.null(models), self.replicates(models));
        (0..models.len())
            .map(|model| {
                let [spearman, rho_a, kendall_tau_a] = [0, 1, 2].map(|statistic: usize| scores[statistic][model]);
                let mut figures = LayerFigures {
                    spearman,
                    rho_a,
                    kendall_tau_a,
                    low: None,
                    high: None,
                    p_value: None,
                    p_of_all: None,
                };
                if let Some(score) = figures.score(statistic) {
                    let interval = stimuli::interval(draws.iter().map(|row| row[model]), confidence);
                    (figures.low, figures.high) = interval.unzip();
                    if permutations > 0 {
                        figures.p_value = Some(null.p_value(model, score, side));
                        figures.p_of_all = Some(null.p_of_largest(score, side));
                    }
                }
                figures
            })
            .collect()
    }

    /// Why there can be no cross-validated choice, if there cannot.
    pub fn too_few(&self) -> Option<String> {
        let (stimuli, folds) = (self.judged.stimuli(), self.settings.folds);
        let needed = 3 * folds;
        (stimuli < needed).then(|| format!("{stimuli} clips are too few for {folds} folds of at least 3"))
    }

    /// The fold of each stimulus.
    pub fn folds(&self) -> Vec<usize> {
        stimuli::folds(&self.streams, self.judged.stimuli(), self.settings.folds)
    }

    /// The cross-validated choice alone. `None` when a fold has nothing to choose or to score.
    pub fn choice(&self, models: &[Modelled]) -> Option<CrossValidated> {
        let mut scorer = Scorer::new(self.judged, self.settings.statistic);
        let times = vec![1; self.judged.stimuli()];
        stimuli::cross_validated(&mut scorer, models, &self.folds(), self.settings.folds, &times)
    }

    /// Cross-validated scores under bootstrap draws.
    pub fn choice_replicates(&self, models: &[Modelled]) -> Vec<f64> {
        let Settings { statistic, folds, replicates, cv_draws, .. } = *self.settings;
        let (fold_of, draws) = (self.folds(), cv_draws.min(replicates));
        stimuli::cross_validated_replicates(self.judged, models, statistic, (&fold_of, folds), draws, &self.streams)
    }

    /// Cross-validated scores under permuted labels.
    pub fn choice_null(&self, models: &[Modelled]) -> Vec<f64> {
        let Settings { statistic, folds, permutations, cv_draws, .. } = *self.settings;
        let (fold_of, draws) = (self.folds(), cv_draws.min(permutations));
        stimuli::cross_validated_null(self.judged, models, statistic, (&fold_of, folds), draws, &self.streams)
    }

    /// The cross-validated choice with interval and p.
    pub fn chosen(&self, models: &[Modelled]) -> Option<Chosen> {
        let CrossValidated { score, chosen } = self.choice(models)?;
        let (low, high) = stimuli::interval(self.choice_replicates(models), self.settings.confidence).unzip();
        let null = self.choice_null(models);
        let p_value = (!null.is_empty()).then(|| permutation::p_value(null.into_iter(), score, self.settings.side));
        Some(Chosen { score, low, high, p_value, layers: chosen })
    }
}
