//! A small simulated experiment that has run: scores, comparisons, representations, similarity, training.

use std::path::Path;

use super::support::Folder;

/// Quickstart with few clips and steps, and representations held against the world's judgments.
fn text() -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    format!(
        r#"#:schema ../schemas/experiment.schema.json
# Does a page of results show what was found? A world with a <known> answer & few clips.
# soctok run shown.toml        seconds

name    = "shown"
extends = "{root}/experiments/quickstart.toml"
[models.language]
path = "{root}/assets/one-clause-language"
[stages.clips]
train_clips      = 160
test_clips       = 40
frames_per_phase = 1
judged_clips     = 24
[stages.projector]
steps = 40
[stages.embed]
kind      = "embed"
text      = "stage:clips"
packs     = "stage:packs"
projector = "stage:projector"
split     = "test"
[stages.rsa]
kind       = "rsa"
embeddings = "stage:embed"
human      = "stage:clips"
[axes.pool]
to     = "rsa.pool"
values = ["exclude_soc", "only_soc"]
[axes.seed]
to     = "projector.seed"
values = [0, 1]
[exclude.fewer]
where = {{ inject = ["global", "local"] }}
[tables.similar]
value = "rsa.spearman"
rows  = ["inject", "ablation"]
columns = "pool"
over  = "seed"
[tables.bits]
over = "seed"
where = {{ pool = "exclude_soc" }}
[tables.bits.published.known]
where = {{ inject = "none" }}
figure = "perplexity.bits_per_caption"
value = 10.907
tolerance = 1.0
source = "docs/world.md"
note = "exact entropy of text alone"
[tables.bits.published.wrong]
where = {{ inject = "full" }}
figure = "perplexity.bits_per_caption"
value = -100
tolerance = 1.0
source = "nowhere <script>alert(1)</script>"
[comparisons.information]
minuend    = {{ ablation = "constant_token", pool = "exclude_soc" }}
subtrahend = {{ ablation = "base", pool = "exclude_soc" }}
beside     = {{ inject = "none", ablation = "base", pool = "exclude_soc" }}
wrong      = {{ ablation = "wrong_clip", pool = "exclude_soc" }}
pair_by    = ["inject", "seed"]
[tables.information]
where = {{ pool = "exclude_soc" }}
[run]
device = "cpu"
jobs = 1
"#,
        root = root.display()
    )
}

/// Writes `shown.toml` and runs it.
pub fn ran() -> Folder {
    let folder = Folder::new();
    folder.write("shown.toml", &text());
    folder.ok(&["run", "shown.toml"]);
    folder
}
