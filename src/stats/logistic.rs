//! Multinomial logistic regression, fitted by limited-memory BFGS.
//!
//! Minimises the sum over rows of −ln p plus `penalty` / 2 · ‖weights‖² (intercepts are free), which is
//! `sklearn.linear_model.LogisticRegression(C = 1 / penalty)`. Everything is f64 and summed in order.

use std::collections::VecDeque;

/// Pairs of steps and gradient changes that the Hessian is approximated from.
const MEMORY: usize = 10;
/// Iterations at most; the problem is convex and smooth and needs far fewer.
const ITERATIONS: usize = 1000;

/// A fitted model.
#[derive(Clone, Debug)]
pub struct Logistic {
    classes: usize,
    /// `[classes, inputs + 1]`, the intercept last.
    weights: Vec<f64>,
}

impl Logistic {
    /// Fits `labels` (below `classes`) of `rows` (equal lengths).
    pub fn fit(rows: &[Vec<f64>], labels: &[usize], classes: usize, penalty: f64) -> Self {
        let width = rows.first().map_or(0, Vec::len) + 1;
        let mut model = Self { classes, weights: vec![0.0; classes * width] };
        let (mut value, mut gradient) = model.objective(rows, labels, penalty);
        let mut memory: VecDeque<(Vec<f64>, Vec<f64>, f64)> = VecDeque::new();
        let start = norm(&gradient);
        for _ in 0..ITERATIONS {
            if norm(&gradient) <= 1e-9 * start.max(1.0) {
                break;
            }
            let direction = direction(&gradient, &memory);
            let slope = dot(&direction, &gradient);
            // The first step has no curvature to go by.
            let mut step = if memory.is_empty() { 1.0 / norm(&gradient).max(1.0) } else { 1.0 };
            let before = model.weights.clone();
            let found = loop {
                model.weights = before.iter().zip(&direction).map(|(weight, d)| weight + step * d).collect();
                let (next, new_gradient) = model.objective(rows, labels, penalty);
                if next <= value + 1e-4 * step * slope {
                    break Some((next, new_gradient));
                }
                step *= 0.5;
                if step < 1e-12 {
                    break None;
                }
            };
            let Some((next, new_gradient)) = found else {
                model.weights = before;
                break;
            };
            let moved: Vec<f64> = direction.iter().map(|d| step * d).collect();
            let bent: Vec<f64> = new_gradient.iter().zip(&gradient).map(|(new, old)| new - old).collect();
            let curvature = dot(&moved, &bent);
            if curvature > 0.0 {
                memory.push_back((moved, bent, 1.0 / curvature));
                if memory.len() > MEMORY {
                    memory.pop_front();
                }
            }
            (value, gradient) = (next, new_gradient);
        }
        model
    }

    /// ln p of every class for one row.
    pub fn log_probabilities(&self, row: &[f64]) -> Vec<f64> {
        let width = row.len() + 1;
        let scores: Vec<f64> = self
            .weights
            .chunks_exact(width)
            .map(|weights| dot(&weights[..row.len()], row) + weights[row.len()])
            .collect();
        let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let total = scores.iter().map(|score| (score - largest).exp()).sum::<f64>().ln() + largest;
        scores.into_iter().map(|score| score - total).collect()
    }

    /// The penalised loss and its gradient.
    fn objective(&self, rows: &[Vec<f64>], labels: &[usize], penalty: f64) -> (f64, Vec<f64>) {
        let width = self.weights.len() / self.classes;
        let (mut value, mut gradient) = (0.0, vec![0.0; self.weights.len()]);
        for (row, &label) in rows.iter().zip(labels) {
            let logs = self.log_probabilities(row);
            value -= logs[label];
            for (class, log) in logs.into_iter().enumerate() {
                let excess = log.exp() - f64::from(class == label);
                let part = &mut gradient[class * width..(class + 1) * width];
                part.iter_mut().zip(row).for_each(|(sum, x)| *sum += excess * x);
                part[width - 1] += excess;
            }
        }
        for (place, (weight, sum)) in self.weights.iter().zip(&mut gradient).enumerate() {
            if place % width != width - 1 {
                value += penalty / 2.0 * weight * weight;
                *sum += penalty * weight;
            }
        }
        (value, gradient)
    }
}

/// −H·gradient for the remembered approximation H of the inverse Hessian (Nocedal & Wright, algorithm 7.4).
fn direction(gradient: &[f64], memory: &VecDeque<(Vec<f64>, Vec<f64>, f64)>) -> Vec<f64> {
    let mut q = gradient.to_vec();
    let mut alphas = Vec::with_capacity(memory.len());
    for (moved, bent, rho) in memory.iter().rev() {
        let alpha = rho * dot(moved, &q);
        q.iter_mut().zip(bent).for_each(|(q, y)| *q -= alpha * y);
        alphas.push(alpha);
    }
    if let Some((moved, bent, _)) = memory.back() {
        let scale = dot(moved, bent) / dot(bent, bent);
        q.iter_mut().for_each(|q| *q *= scale);
    }
    for ((moved, bent, rho), alpha) in memory.iter().zip(alphas.into_iter().rev()) {
        let beta = rho * dot(bent, &q);
        q.iter_mut().zip(moved).for_each(|(q, s)| *q += (alpha - beta) * s);
    }
    q.into_iter().map(|q| -q).collect()
}

fn dot(left: &[f64], right: &[f64]) -> f64 {
    left.iter().zip(right).map(|(l, r)| l * r).sum()
}

fn norm(values: &[f64]) -> f64 {
    dot(values, values).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    type Expected = (f64, [[f64; 3]; 2]);
    const REFERENCE: [Expected; 2] = [
        (1.0, [[-0.374_168_444, -1.215_660_419, -4.158_893_439], [-1.024_619_528, -0.650_692_048, -2.125_423_696]]),
        (0.01, [[-0.242_643_126, -1.535_201_266, -10.225_945_115], [-1.207_924_081, -0.365_595_922, -4.906_281_057]]),
    ];

    #[test]
    fn probabilities_are_those_of_scikit_learn() {
        // scikit-learn 1.9: rows [sin(1.3 i), cos(0.7 i), 0.1 (i mod 5)] for i in 0..40, label (i² + i // 3) mod 3;
        // LogisticRegression(C=1/penalty, tol=1e-12, max_iter=100000); predict_log_proba of rows 0 and 7.
        let rows: Vec<Vec<f64>> = (0..40)
            .map(|i| {
                let x = f64::from(i);
                vec![(1.3 * x).sin(), (0.7 * x).cos(), 0.1 * f64::from(i % 5)]
            })
            .collect();
        let labels: Vec<usize> = (0..40).map(|i| (i * i + i / 3) % 3).collect();
        for (penalty, expected) in REFERENCE {
            let model = Logistic::fit(&rows, &labels, 3, penalty);
            for (row, expected) in [0, 7].into_iter().zip(expected) {
                for (found, expected) in model.log_probabilities(&rows[row]).into_iter().zip(expected) {
                    assert!(
                        (found - expected).abs() < 1e-6 * expected.abs().max(1.0),
                        "penalty {penalty}, row {row}: {found} against {expected}"
                    );
                }
            }
        }
    }

    #[test]
    fn what_is_separable_is_separated() {
        let rows: Vec<Vec<f64>> = (0..30).map(|i| vec![f64::from(i % 3 == 0), f64::from(i % 3 == 1)]).collect();
        let labels: Vec<usize> = (0..30).map(|i| i % 3).collect();
        let model = Logistic::fit(&rows, &labels, 3, 1e-3);
        assert!(rows.iter().zip(&labels).all(|(row, &label)| model.log_probabilities(row)[label] > -0.05));
    }
}
