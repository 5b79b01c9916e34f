//! Training through a frozen model: negative log-likelihoods and their gradient at the inputs.
//!
//! The forward pass keeps only the input of every layer. The vocabulary head runs at label rows alone, in chunks, and
//! forms its gradient on the way: softmax minus one-hot, through the soft cap, times the embedding matrix. Then each
//! layer is run again on a fresh autodiff tape, last one first, so that one layer's intermediates live at a time.

use burn::tensor::{IndexingUpdateOp, Int, Tensor, TensorData};

use super::Gemma;
use super::block::{narrowed, widened};

impl Gemma {
    /// Negative log-likelihoods and their gradient at the inputs, for a model on a plain device.
    ///
    /// `inputs` are scaled inputs `[batch, tokens, hidden]` on the same plain device; `rows` are the (batch, position)
    /// pairs whose hidden state predicts `targets`; `weights` are the factors of each −ln p in the objective.
    /// Returns −ln p per row in nats, and d(Σ weight · nll)/d inputs `[batch, tokens, hidden]`, f32. Right padding gets
    /// zero gradient because no row may lie on it.
    ///
    /// # Panics
    /// When `rows`, `targets` and `weights` differ in length or a row lies outside `inputs`.
    pub fn nll_and_gradient(
        &self,
        inputs: Tensor<3>,
        rows: &[(usize, usize)],
        targets: &[u32],
        weights: &[f32],
    ) -> (Vec<f32>, Tensor<3>) {
        let shape @ [batch, tokens, hidden] = inputs.dims();
        assert!(rows.len() == targets.len() && rows.len() == weights.len(), "one target and one weight per row");
        assert!(rows.iter().all(|&(b, t)| b < batch && t < tokens), "every row lies inside the inputs");
        if rows.is_empty() {
            return (Vec::new(), widened(inputs).zeros_like());
        }
        let mut x = self.entered(inputs.without_autodiff());
        let device = x.device();
        let dtype = x.dtype();
        let tables = self.tables(tokens, &x);
        let mut saved = Vec::with_capacity(self.layers.len());
        for index in 0..self.layers.len() {
            saved.push(x.clone());
            x = self.through(index, x, (batch, tokens), &tables);
        }
        let at: Vec<i64> = rows.iter().map(|&(b, t)| (b * tokens + t) as i64).collect();
        let at = Tensor::<1, Int>::from_data(TensorData::new(at, [rows.len()]), &device);
        let labelled = x.select(0, at.clone()).autodiff().require_grad();
        let normed = self.final_norm(labelled.clone());
        let (nll, gradient) = self.head_gradient(widened(normed.clone().without_autodiff()), targets, weights);
        let gradient = pulled_back(normed, narrowed(gradient, dtype), &labelled);
        let zeros = Tensor::zeros([batch * tokens, hidden], (&device, dtype));
        let mut gradient = zeros.select_assign(0, at, gradient, IndexingUpdateOp::Add);
        for index in (0..self.layers.len()).rev() {
            let Some(input) = saved.pop() else { break };
            let input = input.autodiff().require_grad();
            let output = self.through(index, input.clone(), (batch, tokens), &tables);
            gradient = pulled_back(output, gradient, &input);
        }
        (nll, widened(gradient).reshape(shape))
    }

    /// −ln p of the targets and the gradient of Σ weight · nll at `hidden` `[rows, hidden]`, both f32.
    fn head_gradient(&self, hidden: Tensor<2>, targets: &[u32], weights: &[f32]) -> (Vec<f32>, Tensor<2>) {
        let device = hidden.device();
        let embedding = self.embed_tokens.val();
        let chunk = self.head_rows();
        let (mut nll, mut gradients) = (Vec::new(), Vec::new());
        for (start, targets) in (0..).step_by(chunk).zip(targets.chunks(chunk)) {
            let count = targets.len();
            let ids: Vec<i64> = targets.iter().map(|&id| i64::from(id)).collect();
            let ids = Tensor::<2, Int>::from_data(TensorData::new(ids, [count, 1]), &device);
            let weight = TensorData::new(weights[start..start + count].to_vec(), [count, 1]);
            let weight = Tensor::<2>::from_data(weight, &device);
            let rows = hidden.clone().narrow(0, start, count);
            let uncapped = self.head(rows);
            // With a cap, `slope` is d logit / d uncapped = 1 − tanh².
            let (logits, slope) = match self.config.final_softcap {
                Some(cap) => {
                    let bent = uncapped.div_scalar(cap).tanh();
                    let slope = (bent.clone() * bent.clone()).neg().add_scalar(1.0);
                    (bent.mul_scalar(cap), Some(slope))
                }
                None => (uncapped, None),
            };
            let largest = logits.clone().max_dim(1);
            let chosen = logits.clone().gather(1, ids.clone()) - largest.clone();
            let exponentials = (logits - largest).exp();
            let total = exponentials.clone().sum_dim(1);
            nll.push((total.clone().log() - chosen).squeeze_dim::<1>(1));
            let softmax = exponentials * (weight.clone() / total);
            let gradient = softmax.scatter(1, ids, weight.neg(), IndexingUpdateOp::Add);
            let gradient = match slope {
                Some(slope) => gradient * slope,
                None => gradient,
            };
            gradients.push(widened(narrowed(gradient, embedding.dtype()).matmul(embedding.clone())));
        }
        let nll: Vec<f32> = values(Tensor::cat(nll, 0));
        (nll, Tensor::cat(gradients, 0))
    }
}

/// The gradient at `input` (tracked) of `output`, given the gradient at `output`; on the plain device.
fn pulled_back(output: Tensor<2>, gradient: Tensor<2>, input: &Tensor<2>) -> Tensor<2> {
    let gradients = (output * gradient.autodiff()).sum().backward();
    input.grad(&gradients).expect("the output was computed from the input, which asks for its gradient")
}

/// The values of a vector on the host.
fn values(x: Tensor<1>) -> Vec<f32> {
    widened(x).into_data().try_into_vec().expect("the tensor was made f32 just before")
}
