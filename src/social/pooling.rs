//! Pools: which positions of a sample its representation is the mean of.

use burn::tensor::{Tensor, TensorData};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::prompt::Inject;
use super::samples::{Sequence, Slot};

/// A choice of positions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Pool {
    /// Every position, BOS, EOS and social tokens included.
    All,
    /// All but social tokens.
    ExcludeSoc,
    /// Global and local tokens.
    OnlySoc,
    /// Local tokens.
    LocalsOnly,
    /// The EOS token, or the last position where none is appended.
    Eos,
}

impl Pool {
    /// Every pool, in the order of the vocabulary.
    pub const ALL: [Self; 5] = [Self::All, Self::ExcludeSoc, Self::OnlySoc, Self::LocalsOnly, Self::Eos];

    /// As in config keys and array names.
    pub fn name(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::ExcludeSoc => "exclude_soc",
            Self::OnlySoc => "only_soc",
            Self::LocalsOnly => "locals_only",
            Self::Eos => "eos",
        }
    }

    /// Whether `inject` gives this pool any position at all; the sentence says why not.
    pub fn defined(self, inject: Inject) -> Result<(), &'static str> {
        match self {
            Self::OnlySoc if inject == Inject::None => Err("with `inject = \"none\"` there is no social token to pool"),
            Self::LocalsOnly if !inject.local() => {
                Err("without `inject = \"local\"` or `\"full\"` there is no local token to pool")
            }
            _ => Ok(()),
        }
    }

    /// Whether the position with this slot, the last one or not, belongs to the pool.
    fn takes(self, slot: Slot, last: bool) -> bool {
        let social = slot.is_social();
        match self {
            Self::All => true,
            Self::ExcludeSoc => !social,
            Self::OnlySoc => social,
            Self::LocalsOnly => matches!(slot, Slot::Local(_)),
            Self::Eos => last,
        }
    }

    /// The positions of the pool in a sample.
    pub fn positions(self, slots: &[Slot]) -> Vec<usize> {
        let last = slots.len().saturating_sub(1);
        (0..slots.len()).filter(|&position| self.takes(slots[position], position == last)).collect()
    }
}

/// A pool with or without the BOS position.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Positions {
    /// The pool.
    pub pool: Pool,
    /// Whether BOS is left out of it.
    #[serde(default)]
    pub exclude_bos: bool,
}

impl Positions {
    /// Whether leaving BOS out can change what the pool holds.
    pub fn may_exclude_bos(pool: Pool) -> bool {
        matches!(pool, Pool::All | Pool::ExcludeSoc)
    }

    /// A pool without BOS, if it is to be left out and can stand in it.
    pub fn of_pool(pool: Pool, exclude_bos: bool) -> Self {
        Self { pool, exclude_bos: exclude_bos && Self::may_exclude_bos(pool) }
    }

    /// Every pool, and those that hold BOS without it.
    pub fn all() -> Vec<Self> {
        let without = Pool::ALL.into_iter().filter(|&pool| Self::may_exclude_bos(pool));
        let with = Pool::ALL.into_iter().map(|pool| Self { pool, exclude_bos: false });
        with.chain(without.map(|pool| Self { pool, exclude_bos: true })).collect()
    }

    /// As in array names: `all`, `all_without_bos`.
    pub fn name(self) -> String {
        let end = if self.exclude_bos { "_without_bos" } else { "" };
        format!("{}{end}", self.pool.name())
    }

    /// The positions in a sample.
    pub fn of(self, slots: &[Slot]) -> Vec<usize> {
        let mut positions = self.pool.positions(slots);
        if self.exclude_bos {
            positions.retain(|&position| !matches!(slots[position], Slot::Bos(_)));
        }
        positions
    }
}

/// Weights that average the positions of each pool: `[samples, pools, tokens]`. Every pool must have positions in every
/// sample.
pub fn weights(samples: &[&Sequence], pools: &[Positions], tokens: usize) -> TensorData {
    let mut values = vec![0.0f32; samples.len() * pools.len() * tokens];
    for (number, sample) in samples.iter().enumerate() {
        for (place, pool) in pools.iter().enumerate() {
            let start = (number * pools.len() + place) * tokens;
            let positions = pool.of(&sample.slots);
            for &position in &positions {
                values[start + position] = 1.0 / positions.len() as f32;
            }
        }
    }
    TensorData::new(values, [samples.len(), pools.len(), tokens])
}

/// Pooled vectors `[samples, pools, hidden]` of hidden states `[samples, tokens, hidden]`.
pub fn pooled(weights: Tensor<3>, hidden: Tensor<3>) -> Tensor<3> {
    weights.matmul(hidden)
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;

    const SLOTS: [Slot; 6] = [Slot::Bos(2), Slot::Global, Slot::Text(5), Slot::Local(0), Slot::Text(6), Slot::Eos(1)];

    #[test]
    fn each_pool_has_its_positions() {
        let positions = Pool::ALL.map(|pool| pool.positions(&SLOTS));
        assert_eq!(positions[0], [0, 1, 2, 3, 4, 5]);
        assert_eq!(positions[1], [0, 2, 4, 5]);
        assert_eq!(positions[2], [1, 3]);
        assert_eq!(positions[3], [3]);
        assert_eq!(positions[4], [5]);
        assert_eq!(Pool::Eos.positions(&SLOTS[..5]), [4], "the last position without an EOS");
        let without: Vec<(String, Vec<usize>)> =
            Positions::all()[5..].iter().map(|p| (p.name(), p.of(&SLOTS))).collect();
        let expected = [("all_without_bos", vec![1, 2, 3, 4, 5]), ("exclude_soc_without_bos", vec![2, 4, 5])];
        assert_eq!(without, expected.map(|(name, positions)| (name.to_owned(), positions)));
    }

    #[test]
    fn seventeen_of_twenty_cells_are_defined() {
        let modes = [Inject::None, Inject::Global, Inject::Local, Inject::Full];
        let defined = modes.iter().flat_map(|&inject| Pool::ALL.map(|pool| pool.defined(inject).is_ok()));
        assert_eq!(defined.filter(|&defined| defined).count(), 17);
    }

    #[test]
    fn pooling_averages_and_leaves_padding_out() {
        let sample = Sequence { clip: 0, utterance: 0, slots: SLOTS[..3].to_vec(), ..Sequence::default() };
        let device = Device::default();
        let [first, second] = [Pool::ExcludeSoc, Pool::Eos].map(|pool| Positions { pool, exclude_bos: false });
        let pools = [first, second, Positions { exclude_bos: true, ..first }];
        let weights = Tensor::<3>::from_data(weights(&[&sample], &pools, 4), &device);
        let hidden = Tensor::<3>::from_data([[[1.0, 2.0], [50.0, 50.0], [3.0, 6.0], [99.0, 99.0]]], &device);
        let values: Vec<f32> = pooled(weights, hidden).into_data().try_into_vec().unwrap();
        assert_eq!(values, [2.0, 4.0, 3.0, 6.0, 3.0, 6.0]);
    }
}
