//! Looking into a forward pass: attention weights, and hidden states read as if they were the last.

use burn::tensor::Tensor;

use super::Gemma;
use super::block::{narrowed, widened};
use super::plain::Surroundings;

impl Gemma {
    /// One forward pass of scaled inputs `[batch, tokens, hidden]`. `take` gets the attention weights of every layer as
    /// they are there, `[batch, heads, query, key]` in f32, after soft cap and softmax: 0 where a query may not look. The
    /// ordinary forward pass computes the same and lets go of them, so nothing of it is slower for this.
    ///
    /// # Errors
    /// What `take` gives, after which the pass ends.
    ///
    /// # Panics
    /// When the model is on an autodiff device.
    pub fn attentions<E>(
        &self,
        inputs: Tensor<3>,
        mut take: impl FnMut(usize, Tensor<4>) -> Result<(), E>,
    ) -> Result<(), E> {
        assert!(!self.device().is_autodiff(), "a model that is looked into lies on a plain device");
        let [batch, tokens, _] = inputs.dims();
        let mut x = self.entered(inputs.without_autodiff());
        let tables = self.tables(tokens, &x);
        for (index, layer) in self.layers.iter().enumerate() {
            let (config, sliding) = (&self.config, self.config.sliding[index]);
            let (output, saved) =
                layer.forward_plain(x, Surroundings { size: (batch, tokens), config, tables: &tables, sliding });
            take(index, widened(saved.weights).reshape([batch, self.config.heads, tokens, tokens]))?;
            x = output;
        }
        Ok(())
    }

    /// Hidden states `[rows, hidden]` after the final norm, f32. The last state that [`Gemma::hidden_states`] gives has
    /// been through it already.
    pub fn final_normed(&self, hidden: Tensor<2>) -> Tensor<2> {
        widened(self.final_norm(narrowed(hidden, self.norm.val().dtype())))
    }

    /// How far back a query of a layer may look: it sees this many keys, its own the last.
    pub fn reach(&self, layer: usize, tokens: usize) -> usize {
        if self.config.sliding[layer] { self.config.sliding_window.min(tokens) } else { tokens }
    }
}
