//! What every analysis takes where its settings leave it open.

/// Permutations, or bootstrap draws.
pub fn draws() -> usize {
    10_000
}

/// Permutations and bootstrap draws in each of which a layer is chosen anew.
pub fn cv_draws() -> usize {
    1000
}

/// Folds for a cross-validated choice.
pub fn folds() -> usize {
    5
}

/// Share of the draws inside an interval.
pub fn confidence() -> f64 {
    0.95
}
