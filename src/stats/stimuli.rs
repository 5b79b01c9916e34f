//! Resampling of stimuli: bootstrap intervals, and the layer chosen on some stimuli and scored on others.
//!
//! A bootstrap draw takes as many stimuli as there are, with replacement; pairs that fall on one stimulus drop out, as in
//! rsatoolbox. Draws and folds depend on the seed and the number of stimuli alone, so every condition of a grid has the
//! same ones, and differences between conditions are paired.

use rayon::prelude::*;

use super::pairs::{Judged, Modelled, Scorer};
use super::random::Streams;
use super::ranks::Statistic;

/// How often bootstrap draw `number` takes each of `stimuli` stimuli.
pub fn draw(streams: &Streams, number: u64, stimuli: usize) -> Vec<u32> {
    let mut stream = streams.at(0, number, "stimuli");
    let mut times = vec![0; stimuli];
    (0..stimuli).for_each(|_| times[stream.below_u32(stimuli as u32) as usize] += 1);
    times
}

/// Scores of every model under each of `replicates` draws, `[replicates][models]`; NaN where a score is not defined.
pub fn replicates(
    judged: &Judged,
    models: &[Modelled],
    statistic: Statistic,
    replicates: usize,
    streams: &Streams,
) -> Vec<Vec<f64>> {
    let one = |scorer: &mut Scorer<'_>, number: usize| {
        let times = draw(streams, number as u64, judged.stimuli());
        match scorer.draw(&times) {
            Some(()) => models.iter().map(|model| scorer.score(model, &times).unwrap_or(f64::NAN)).collect(),
            None => vec![f64::NAN; models.len()],
        }
    };
    (0..replicates).into_par_iter().map_init(|| Scorer::new(judged, statistic), one).collect()
}

/// The bounds of the middle `confidence` of the values that are numbers; `None` for fewer than half of them.
pub fn interval(values: impl IntoIterator<Item = f64>, confidence: f64) -> Option<(f64, f64)> {
    let mut all = 0;
    let mut sorted: Vec<f64> = values.into_iter().inspect(|_| all += 1).filter(|value| !value.is_nan()).collect();
    if sorted.is_empty() || 2 * sorted.len() < all {
        return None;
    }
    sorted.sort_by(f64::total_cmp);
    let tail = (1.0 - confidence) / 2.0;
    Some((super::bootstrap::percentile(&sorted, tail), super::bootstrap::percentile(&sorted, 1.0 - tail)))
}

/// The fold of each stimulus: `folds` parts of a random order, as equal as they can be.
pub fn folds(streams: &Streams, stimuli: usize, folds: usize) -> Vec<usize> {
    let order = streams.named("folds").permutation(stimuli);
    let mut fold = vec![0; stimuli];
    order.into_iter().enumerate().for_each(|(place, stimulus)| fold[stimulus] = place * folds / stimuli);
    fold
}

/// A model chosen on some stimuli and scored on the others.
#[derive(Clone, Debug, PartialEq)]
pub struct CrossValidated {
    /// Mean over folds of the score on pairs of held-out stimuli.
    pub score: f64,
    /// The model chosen without each fold: the best on pairs of the other stimuli, the first of equals.
    pub chosen: Vec<usize>,
}

/// Chooses among `models` without each fold in turn and scores the choice on the pairs within the fold; stimulus i
/// counts `times[i]` times. `None` when some fold leaves nothing to choose or to score.
pub fn cross_validated(
    scorer: &mut Scorer<'_>,
    models: &[Modelled],
    fold_of: &[usize],
    folds: usize,
    times: &[u32],
) -> Option<CrossValidated> {
    let mut found = CrossValidated { score: 0.0, chosen: Vec::with_capacity(folds) };
    let part = |keep: &dyn Fn(usize) -> bool| -> Vec<u32> {
        times.iter().zip(fold_of).map(|(&times, &fold)| if keep(fold) { times } else { 0 }).collect()
    };
    for held_out in 0..folds {
        let training = part(&|fold| fold != held_out);
        scorer.draw(&training)?;
        let best = best(models.iter().map(|model| scorer.score(model, &training)))?;
        let testing = part(&|fold| fold == held_out);
        scorer.draw(&testing)?;
        found.score += scorer.score(&models[best], &testing)? / folds as f64;
        found.chosen.push(best);
    }
    Some(found)
}

/// The place of the largest score, the first of equals; `None` when none is defined.
pub fn best(scores: impl Iterator<Item = Option<f64>>) -> Option<usize> {
    let mut best: Option<(usize, f64)> = None;
    for (place, score) in scores.enumerate() {
        if let Some(score) = score.filter(|&score| best.is_none_or(|(_, before)| score > before)) {
            best = Some((place, score));
        }
    }
    best.map(|(place, _)| place)
}

/// [`cross_validated`] under each bootstrap draw, the choice made anew in each; a drawn stimulus stays in its fold
/// however often it is drawn. NaN where a draw leaves a fold without anything to score.
pub fn cross_validated_replicates(
    judged: &Judged,
    models: &[Modelled],
    statistic: Statistic,
    (fold_of, folds): (&[usize], usize),
    replicates: usize,
    streams: &Streams,
) -> Vec<f64> {
    let one = |scorer: &mut Scorer<'_>, number: usize| {
        let times = draw(streams, number as u64, judged.stimuli());
        cross_validated(scorer, models, fold_of, folds, &times).map_or(f64::NAN, |found| found.score)
    };
    (0..replicates).into_par_iter().map_init(|| Scorer::new(judged, statistic), one).collect()
}

/// [`cross_validated`] under permutations of the judged stimuli, the choice made anew under each: a fold's choice rests on
/// pairs that other folds are scored on, so choices that stayed as they are would make the null too narrow. Scores that
/// are not defined count as 0.
pub fn cross_validated_null(
    judged: &Judged,
    models: &[Modelled],
    statistic: Statistic,
    (fold_of, folds): (&[usize], usize),
    permutations: usize,
    streams: &Streams,
) -> Vec<f64> {
    let times = vec![1; judged.stimuli()];
    let one = |order: &mut Vec<u16>, number: usize| {
        super::permutation::permute(streams, number as u64, order);
        let judged = judged.permuted(order);
        let models: Vec<Modelled> = models.iter().map(|model| model.against(&judged)).collect();
        let mut scorer = Scorer::new(&judged, statistic);
        cross_validated(&mut scorer, &models, fold_of, folds, &times).map_or(0.0, |found| found.score)
    };
    (0..permutations).into_par_iter().map_init(|| vec![0; judged.stimuli()], one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::ranks::spearman;
    use crate::stats::rsm::upper_triangle;

    /// `stimuli` stimuli whose judged similarity is `share` of model 0's plus noise, some pairs not judged; model 1 is
    /// noise, model 2 has ties.
    fn simulated(stimuli: usize, share: f64, seed: u64) -> (Vec<Option<f64>>, Vec<Vec<f64>>) {
        let mut stream = Streams::new(seed, "test").named("data");
        let pairs = stimuli * (stimuli - 1) / 2;
        let first: Vec<f64> = (0..pairs).map(|_| stream.normal()).collect();
        let noise: Vec<f64> = (0..pairs).map(|_| stream.normal()).collect();
        let tied: Vec<f64> = first.iter().map(|value| value.round()).collect();
        let mut human = vec![None; stimuli * stimuli];
        for ((i, j), value) in upper_triangle(stimuli).zip(&first) {
            let judged = (!stream.coin(0.1)).then(|| ((share * value + stream.normal()) * 2.0).round());
            human[i * stimuli + j] = judged;
            human[j * stimuli + i] = judged;
        }
        (human, vec![first, noise, tied])
    }

    /// The score of resampled stimuli by resampling them: rows and columns repeated, pairs of one stimulus left out.
    fn slowly(stimuli: usize, human: &[Option<f64>], model: &[f64], times: &[u32]) -> f64 {
        let mut square = vec![0.0; stimuli * stimuli];
        for ((i, j), &value) in upper_triangle(stimuli).zip(model) {
            (square[i * stimuli + j], square[j * stimuli + i]) = (value, value);
        }
        let drawn: Vec<usize> = (0..stimuli).flat_map(|i| std::iter::repeat_n(i, times[i] as usize)).collect();
        let pairs = upper_triangle(drawn.len()).map(|(a, b)| (drawn[a], drawn[b])).filter(|(i, j)| i != j);
        let (ours, theirs): (Vec<f64>, Vec<f64>) =
            pairs.filter_map(|(i, j)| Some((square[i * stimuli + j], human[i * stimuli + j]?))).unzip();
        spearman(&ours, &theirs).unwrap().0
    }

    #[test]
    fn weights_give_what_repeating_stimuli_gives() {
        let (human, models) = simulated(24, 1.0, 0);
        let judged = Judged::new(24, &human, None).unwrap();
        let streams = Streams::new(1, "test");
        let sides: Vec<Modelled> = models.iter().map(|model| Modelled::new(&judged, model)).collect();
        let found = replicates(&judged, &sides, Statistic::Spearman, 20, &streams);
        for (number, row) in found.iter().enumerate() {
            let times = draw(&streams, number as u64, 24);
            assert_eq!(times.iter().sum::<u32>(), 24);
            for (score, model) in row.iter().zip(&models) {
                let slow = slowly(24, &human, model, &times);
                assert!((score - slow).abs() < 1e-12, "draw {number}: {score} against {slow}");
            }
        }
    }

    #[test]
    fn results_do_not_depend_on_threads() {
        let (human, models) = simulated(30, 0.7, 2);
        let judged = Judged::new(30, &human, None).unwrap();
        let sides: Vec<Modelled> = models.iter().map(|model| Modelled::new(&judged, model)).collect();
        let streams = Streams::new(3, "test");
        let fold_of = folds(&streams, 30, 5);
        let all = || {
            let null = super::super::permutation::null(&judged, &sides, Statistic::Spearman, 200, &streams);
            let rows = replicates(&judged, &sides, Statistic::RhoA, 50, &streams);
            let crossed = cross_validated_replicates(&judged, &sides, Statistic::Spearman, (&fold_of, 5), 30, &streams);
            (null, format!("{rows:?}"), format!("{crossed:?}"))
        };
        let on = |threads| rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(all);
        assert_eq!(on(1), on(3));
    }

    #[test]
    fn the_layer_is_chosen_elsewhere_than_it_is_scored() {
        let (human, models) = simulated(60, 1.0, 4);
        let judged = Judged::new(60, &human, None).unwrap();
        let sides: Vec<Modelled> = models.iter().map(|model| Modelled::new(&judged, model)).collect();
        let streams = Streams::new(5, "test");
        let fold_of = folds(&streams, 60, 5);
        assert!((0..5).all(|fold| fold_of.iter().filter(|&&of| of == fold).count() == 12));
        let mut scorer = Scorer::new(&judged, Statistic::Spearman);
        let found = cross_validated(&mut scorer, &sides, &fold_of, 5, &[1; 60]).unwrap();
        assert_eq!(found.chosen, [0; 5]);
        let of_fold = |held_out: usize| {
            let times: Vec<u32> = fold_of.iter().map(|&fold| u32::from(fold == held_out)).collect();
            slowly(60, &human, &models[0], &times)
        };
        let mean = (0..5).map(of_fold).sum::<f64>() / 5.0;
        assert!((found.score - mean).abs() < 1e-12, "{} against {mean}", found.score);
        let null = cross_validated_null(&judged, &sides, Statistic::Spearman, (&fold_of, 5), 300, &streams);
        assert!(null.iter().all(|&score| score < found.score), "{}", found.score);
        assert!((null.iter().sum::<f64>() / 300.0).abs() < 0.02);
    }

    #[test]
    fn intervals_leave_out_what_is_not_defined() {
        assert_eq!(interval([3.0, f64::NAN, 1.0, 2.0], 0.5), Some((1.5, 2.5)));
        assert_eq!(interval([f64::NAN, f64::NAN, 1.0], 0.95), None);
    }
}
