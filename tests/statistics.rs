//! Statistics against reference numbers of scipy and rsatoolbox (`tests/fixtures/statistics/make.py` made them), and
//! against what they promise: p values that are right under the null, intervals that hold the truth.

use std::path::Path;

use serde_json::Value;
use soctok::social::judgments::Judgments;
use soctok::stats::bootstrap::percentile;
use soctok::stats::inference::{Inference, Settings};
use soctok::stats::pairs::{Judged, Modelled, Scorer};
use soctok::stats::permutation::{self, Side};
use soctok::stats::random::{Stream, Streams};
use soctok::stats::ranks::{Statistic, rho_a, spearman};
use soctok::stats::rsm::{Similarity, matrix, triangle, upper_triangle};
use soctok::stats::stimuli;
use soctok::stats::triplets::{Repeats, Trial, Trials};

fn reference() -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/statistics/reference.json");
    serde_json::from_str(&std::fs::read_to_string(path).expect("a fixture")).expect("is JSON")
}

fn numbers(value: &Value) -> Vec<f64> {
    serde_json::from_value(value.clone()).expect("numbers")
}

fn number(value: &Value) -> f64 {
    value.as_f64().expect("a number")
}

/// The largest difference allowed between two ways to a score of at most 1.
const TOLERANCE: f64 = 1e-12;

fn close(what: &str, ours: f64, expected: f64, tolerance: f64) {
    assert!((ours - expected).abs() <= tolerance, "{what}: {ours}, expected {expected}");
}

/// Pairs in row order as a whole matrix.
fn square(stimuli: usize, pairs: &[f64]) -> Vec<Option<f64>> {
    let mut square = vec![None; stimuli * stimuli];
    for ((i, j), &value) in upper_triangle(stimuli).zip(pairs) {
        (square[i * stimuli + j], square[j * stimuli + i]) = (Some(value), Some(value));
    }
    square
}

/// Stimuli of that many pairs.
fn stimuli_of(pairs: usize) -> usize {
    (2..).find(|count| count * (count - 1) / 2 >= pairs).expect("numbers have no end")
}

#[test]
fn scores_are_those_of_scipy_and_rsatoolbox() {
    for case in reference()["vectors"].as_array().expect("a list") {
        let (left, right) = (numbers(&case["left"]), numbers(&case["right"]));
        let (rho, p) = spearman(&left, &right).expect("varies");
        close("spearman", rho, number(&case["spearman"]), TOLERANCE);
        close("p", p, number(&case["scipy_p"]), 1e-9);
        close("rho-a", rho_a(&left, &right).expect("long enough"), number(&case["rho_a"]), TOLERANCE);
        let count = stimuli_of(left.len());
        let judged = Judged::new(count, &square(count, &left), None).expect("small");
        let model = Modelled::new(&judged, &right);
        for statistic in Statistic::ALL {
            let times = vec![1; count];
            let found = Scorer::new(&judged, statistic).score(&model, &times).expect("varies");
            close(statistic.name(), found, number(&case[statistic.name()]), TOLERANCE);
        }
    }
}

#[test]
fn bootstrap_draws_score_what_rsatoolbox_scores() {
    let case = &reference()["draws"];
    let human = numbers(&case["human"]);
    let count = stimuli_of(human.len());
    let judged = Judged::new(count, &square(count, &human), None).expect("small");
    let models: Vec<Modelled> = case["models"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|model| Modelled::new(&judged, &numbers(model)))
        .collect();
    for draw in case["draws"].as_array().expect("a list") {
        let times: Vec<u32> = serde_json::from_value(draw["times"].clone()).expect("counts");
        for (model, expected) in models.iter().zip(draw["scores"].as_array().expect("a list")) {
            for statistic in Statistic::ALL {
                let mut scorer = Scorer::new(&judged, statistic);
                scorer.draw(&times).expect("enough is left");
                let found = scorer.score(model, &times).expect("varies");
                close(statistic.name(), found, number(&expected[statistic.name()]), TOLERANCE);
            }
        }
    }
}

#[test]
fn similarities_are_those_of_scipy() {
    let case = &reference()["similarities"];
    let rows: Vec<Vec<f64>> = serde_json::from_value(case["rows"].clone()).expect("numbers");
    for similarity in [Similarity::Cosine, Similarity::Pearson, Similarity::Euclidean] {
        let name = serde_json::to_value(similarity).expect("a word");
        let expected: Vec<Vec<f64>> =
            serde_json::from_value(case[name.as_str().expect("a word")].clone()).expect("numbers");
        let found = matrix(&rows, similarity).expect("every row has a direction");
        for (found, expected) in found.iter().zip(expected.concat()) {
            close("similarity", *found, expected, TOLERANCE);
        }
    }
}

#[test]
fn triplets_give_what_counting_by_hand_gives() {
    let case = &reference()["triplets"];
    let listed: Vec<[u32; 5]> = serde_json::from_value(case["trials"].clone()).expect("trials");
    let trials = Trials {
        clips: (0..case["clips"].as_u64().expect("a count")).map(|clip| clip.to_string()).collect(),
        participants: 5,
        trials: listed
            .iter()
            .map(|&[participant, a, b, c, odd]| Trial { participant, clips: [a, b, c], odd })
            .collect(),
    };
    for (name, repeats) in [("leave_out", Repeats::LeaveOut), ("count", Repeats::Count)] {
        let expected: Vec<Vec<Option<f64>>> =
            serde_json::from_value(case["similarity"][name].clone()).expect("numbers or nothing");
        let found = Judgments::of_trials(trials.clone(), repeats);
        for (i, j) in upper_triangle(found.clips.len()) {
            assert_eq!(found.values[i * found.clips.len() + j], expected[i][j], "{name} at {i}, {j}");
        }
    }
}

#[test]
fn percentiles_are_those_of_numpy() {
    let case = &reference()["percentiles"];
    let mut values = numbers(&case["values"]);
    values.sort_by(f64::total_cmp);
    for (share, expected) in numbers(&case["shares"]).into_iter().zip(numbers(&case["percentiles"])) {
        close("percentile", percentile(&values, share), expected, TOLERANCE);
    }
}

/// Every way to the null against permuting rows and columns of the matrix and correlating what both sides have: complete,
/// with gaps, with weights, with ties, for every statistic, below and above the size that fits 16 bits.
#[test]
fn permuted_scores_are_those_of_permuted_matrices() {
    for (stimuli, gaps, weighted, tied) in [
        (9, false, false, false),
        (40, false, false, true),
        (258, false, false, true),
        (23, true, false, true),
        (23, true, false, false),
        (17, true, true, true),
    ] {
        let mut stream = Streams::new(stimuli as u64, "test").named("null");
        let pairs = stimuli * (stimuli - 1) / 2;
        let rounded = |value: f64| if tied { value.round() } else { value };
        let human: Vec<f64> = (0..pairs).map(|_| stream.normal().round()).collect();
        let models: Vec<Vec<f64>> = vec![
            human.iter().map(|h| rounded(h + stream.normal())).collect(),
            (0..pairs).map(|_| stream.normal()).collect(),
        ];
        let mut values = square(stimuli, &human);
        let mut counts = vec![1u32; stimuli * stimuli];
        for (i, j) in upper_triangle(stimuli) {
            let (gap, count) = (gaps && stream.coin(0.2), if weighted { stream.below(4) as u32 } else { 1 });
            for cell in [i * stimuli + j, j * stimuli + i] {
                counts[cell] = count;
                values[cell] = values[cell].filter(|_| !gap);
            }
        }
        let judged = Judged::new(stimuli, &values, weighted.then_some(&counts[..])).expect("small");
        let sides: Vec<Modelled> = models.iter().map(|model| Modelled::new(&judged, model)).collect();
        let streams = Streams::new(7, "test");
        let statistics = if stimuli > 100 { &[Statistic::Spearman][..] } else { &Statistic::ALL[..] };
        for &statistic in statistics {
            let null = permutation::null(&judged, &sides, statistic, 6, &streams);
            for number in 0..6 {
                let mut order = vec![0u16; stimuli];
                permutation::permute(&streams, number as u64, &mut order);
                for (model, &found) in models.iter().zip(null.row(number)) {
                    let expected = slowly(statistic, stimuli, &values, &counts, model, &order);
                    close(&format!("{stimuli} stimuli, {}", statistic.name()), found, expected, 1e-11);
                }
            }
        }
    }
}

/// A score of `model` against the judgments in another order, by writing every judged pair out as often as it counts.
fn slowly(
    statistic: Statistic,
    stimuli: usize,
    values: &[Option<f64>],
    counts: &[u32],
    model: &[f64],
    order: &[u16],
) -> f64 {
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for ((i, j), &value) in upper_triangle(stimuli).zip(model) {
        let cell = usize::from(order[i]) * stimuli + usize::from(order[j]);
        if let Some(judged) = values[cell] {
            for _ in 0..counts[cell] {
                ours.push(value);
                theirs.push(judged);
            }
        }
    }
    match statistic {
        Statistic::Spearman => spearman(&ours, &theirs).expect("varies").0,
        Statistic::RhoA => rho_a(&ours, &theirs).expect("long enough"),
        Statistic::KendallTauA => {
            let sign = |a: f64, b: f64| f64::from(i8::from(a > b) - i8::from(a < b));
            let all = upper_triangle(ours.len());
            let sum: f64 = all.map(|(a, b)| sign(ours[a], ours[b]) * sign(theirs[a], theirs[b])).sum();
            2.0 * sum / (ours.len() * (ours.len() - 1)) as f64
        }
    }
}

/// Similarity of stimuli by `dimensions` random features.
fn similarity(stream: &mut Stream, stimuli: usize, dimensions: usize) -> Vec<f64> {
    let rows: Vec<Vec<f64>> = (0..stimuli).map(|_| (0..dimensions).map(|_| stream.normal()).collect()).collect();
    triangle(&matrix(&rows, Similarity::Pearson).expect("random rows have a direction"), stimuli)
}

fn settings(permutations: usize, seed: u64) -> Settings {
    Settings {
        statistic: Statistic::Spearman,
        side: Side::Greater,
        permutations,
        replicates: 0,
        cv_draws: permutations,
        folds: 4,
        confidence: 0.95,
        seed,
    }
}

/// p values of 1,000 simulated nulls: three models that have nothing to do with the judgments of 16 stimuli, some pairs
/// not judged. 200 permutations put p < .05 at 10 in 201.
fn nulls(seed: u64, p_values: impl Fn(&Inference<'_>, &[Modelled]) -> Vec<f64> + Sync) -> Vec<f64> {
    use rayon::prelude::*;
    let rows: Vec<Vec<f64>> = (0..1000u64)
        .into_par_iter()
        .map(|number| {
            let mut stream = Streams::new(seed, "calibration").at(0, number, "data");
            let mut values = square(16, &similarity(&mut stream, 16, 6));
            for (i, j) in upper_triangle(16) {
                if stream.coin(0.05) {
                    (values[i * 16 + j], values[j * 16 + i]) = (None, None);
                }
            }
            let judged = Judged::new(16, &values, None).expect("small");
            let models: Vec<Modelled> =
                (0..3).map(|_| Modelled::new(&judged, &similarity(&mut stream, 16, 6))).collect();
            let settings = settings(200, 1000 * seed + number);
            p_values(&Inference::new(&judged, &settings), &models)
        })
        .collect();
    let rate = |which: usize| rows.iter().filter(|row| row[which] < 0.05).count() as f64 / 1000.0;
    (0..rows[0].len()).map(rate).collect()
}

/// For each of five seeds a fixed layer and the best of three layers reject in 5% ± 1.5% of 1,000 nulls.
#[test]
fn p_values_are_right_under_the_null() {
    for seed in 0..5 {
        let rates = nulls(seed, |inference, models| {
            let figures = inference.layers(models);
            let best = figures.iter().filter_map(|layer| layer.p_of_all).fold(1.0, f64::min);
            vec![figures[0].p_value.expect("was asked for"), best]
        });
        println!("seed {seed}: p < .05 in {} for a fixed layer, {} for the best", rates[0], rates[1]);
        assert!(rates.iter().all(|rate| (rate - 0.05).abs() <= 0.015), "seed {seed}: {rates:?}");
    }
}

/// The same of the layer chosen by cross-validation, which is chosen anew under every permutation.
#[test]
#[ignore = "takes half a minute"]
fn cross_validated_p_values_are_right_under_the_null() {
    for seed in 0..5 {
        let rates = nulls(seed, |inference, models| {
            vec![inference.chosen(models).and_then(|chosen| chosen.p_value).expect("four folds of four have six pairs")]
        });
        println!("seed {seed}: p < .05 in {}", rates[0]);
        assert!((rates[0] - 0.05).abs() <= 0.015, "seed {seed}: {rates:?}");
    }
}

/// Stimuli drawn from a population whose true score is known (from 1,200 of them): how often the bootstrap interval of 40
/// stimuli holds it.
#[test]
fn intervals_hold_the_truth() {
    use rayon::prelude::*;
    let pair = |stream: &mut Stream, stimuli: usize| {
        let rows: Vec<Vec<f64>> = (0..stimuli).map(|_| (0..8).map(|_| stream.normal()).collect()).collect();
        let noisy =
            rows.iter().map(|row| row.iter().map(|x| x + 0.8 * stream.normal()).collect()).collect::<Vec<Vec<f64>>>();
        [rows, noisy].map(|rows| triangle(&matrix(&rows, Similarity::Pearson).expect("has a direction"), stimuli))
    };
    let score = |human: &[f64], model: &[f64]| spearman(human, model).expect("varies").0;
    let [human, model] = pair(&mut Streams::new(0, "coverage").named("population"), 1200);
    let truth = score(&human, &model);
    let held: usize = (0..1000u64)
        .into_par_iter()
        .filter(|&number| {
            let [human, model] = pair(&mut Streams::new(1, "coverage").at(0, number, "sample"), 40);
            let judged = Judged::new(40, &square(40, &human), None).expect("small");
            let models = [Modelled::new(&judged, &model)];
            let streams = Streams::new(number, "rsa");
            let draws = stimuli::replicates(&judged, &models, Statistic::Spearman, 500, &streams);
            let (low, high) = stimuli::interval(draws.iter().map(|row| row[0]), 0.95).expect("defined");
            low <= truth && truth <= high
        })
        .count();
    println!("true score {truth:.3}: 95% intervals hold it in {:.1}% of 1,000 simulations", held as f64 / 10.0);
    assert!(held >= 930, "{held} of 1000");
}
