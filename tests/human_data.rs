//! The real judgments against what is known of them (`docs/rsa.md`).
//!
//! Not part of the default suite, because the data is not ours to ship. `SOCTOK_JUDGMENTS` names a folder with
//! `triplets_train.csv`, `rsm_train.csv` and `clips.csv`; `SOCTOK_JUDGMENTS_ALL` one with the original's
//! `all_triplets.csv`, `sim_judg_test_rsm.csv` and `test.csv`. Then
//! `cargo test --release --test human_data -- --ignored --nocapture`. A missing folder is a failure, never a pass.

use std::collections::HashSet;
use std::path::PathBuf;

use soctok::social::judgments::{Judgments, read_names};
use soctok::stats::random::Streams;
use soctok::stats::rsm::upper_triangle;
use soctok::stats::triplets::Repeats;

fn folder(variable: &str) -> PathBuf {
    let folder = std::env::var_os(variable).unwrap_or_else(|| panic!("{variable} must name the folder with the data"));
    let path = PathBuf::from(folder);
    assert!(path.is_dir(), "`{}` is missing", path.display());
    path
}

fn read(path: PathBuf, repeats: Repeats) -> Judgments {
    Judgments::read(&path, None, None, repeats).unwrap_or_else(|error| panic!("{error}"))
}

/// The largest difference of two matrices of the same clips over pairs, gaps counting as 0 on our side.
fn difference(ours: &Judgments, given: &Judgments) -> (usize, f64) {
    assert_eq!(ours.clips, given.clips);
    let count = ours.clips.len();
    let cells = upper_triangle(count).map(|(i, j)| i * count + j);
    let off = cells.map(|cell| (ours.values[cell].unwrap_or(0.0) - given.values[cell].expect("complete")).abs());
    (count * (count - 1) / 2, off.fold(0.0, f64::max))
}

#[test]
#[ignore = "needs SOCTOK_JUDGMENTS"]
fn the_training_matrix_and_its_ceiling() {
    let folder = folder("SOCTOK_JUDGMENTS");
    let ours = read(folder.join("triplets_train.csv"), Repeats::LeaveOut);
    let given = read(folder.join("rsm_train.csv"), Repeats::LeaveOut);
    let trials = ours.trials.as_ref().expect("trials");
    assert_eq!((trials.trials.len(), trials.repeated(), trials.participants), (24_096, 0, 215));
    let (pairs, off) = difference(&ours, &given);
    println!("{pairs} pairs, largest difference {off:.1e}, {} unobserved", ours.unobserved());
    assert_eq!((pairs, ours.unobserved()), (19_900, 634));
    assert!(off < 1e-9);
    let names = read_names(&folder.join("clips.csv")).unwrap_or_else(|error| panic!("{error}"));
    assert!(ours.clips.iter().all(|clip| names.contains_key(clip)));
    let shown: u32 = ours.shown.as_ref().expect("trials").iter().sum::<u32>() / 2;
    assert!((f64::from(shown) / 19_900.0 - 3.63).abs() < 0.005, "{shown} showings");

    let streams = Streams::new(0, "rsa");
    let masked = ours.reliability(false, 20, &streams).expect("many participants");
    let zeros = ours.reliability(true, 20, &streams).expect("many participants");
    println!("split-half {masked:?}; with zeros {zeros:?}; agreement {:?}", trials.agreement());
    // Twenty random splits scatter by about .003.
    for (found, expected) in [
        (masked.split_half, 0.324),
        (masked.spearman_brown, 0.489),
        (masked.ceiling, 0.70),
        (zeros.split_half, 0.237),
        (zeros.spearman_brown, 0.383),
        (zeros.ceiling, 0.62),
    ] {
        assert!((found - expected).abs() < 0.01, "{found}, expected {expected}");
    }
}

#[test]
#[ignore = "needs SOCTOK_JUDGMENTS_ALL"]
fn the_test_matrix_is_that_of_the_trials_within_the_test_clips() {
    let folder = folder("SOCTOK_JUDGMENTS_ALL");
    let text = std::fs::read_to_string(folder.join("test.csv")).expect("reads");
    let test: HashSet<&str> = text.lines().skip(1).filter_map(|line| line.split(',').next()).collect();
    let all = read(folder.join("all_triplets.csv"), Repeats::Count);
    let trials = all.trials.as_ref().expect("trials");
    assert_eq!((trials.trials.len(), trials.repeated(), test.len()), (49_484, 2_358, 50));
    let ours = all.among(|clip| test.contains(clip));
    assert_eq!(ours.trials.as_ref().expect("trials").trials.len(), 451);
    let given = read(folder.join("sim_judg_test_rsm.csv"), Repeats::LeaveOut);
    let (pairs, off) = difference(&ours, &given);
    println!("{pairs} pairs, largest difference {off:.1e}, {} unobserved", ours.unobserved());
    assert_eq!(pairs, 1225);
    assert!(off < 1e-9);
    // Trials that show a clip twice are in the given matrix; left out, it differs.
    let strict = read(folder.join("all_triplets.csv"), Repeats::LeaveOut).among(|clip| test.contains(clip));
    assert!(difference(&strict, &given).1 > 0.1);
}
