//! A linear layer with a bias.

use burn::module::{Module, Param};
use burn::tensor::Tensor;

/// `x · wᵀ + b`, with the weight `[output, input]` as stored.
#[derive(Module, Debug)]
pub(super) struct Dense {
    pub weight: Param<Tensor<2>>,
    /// `[output]`
    pub bias: Param<Tensor<1>>,
}

impl Dense {
    /// Rows `[rows, input]` to `[rows, output]`.
    pub fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        x.matmul(self.weight.val().transpose()) + self.bias.val().unsqueeze()
    }
}
