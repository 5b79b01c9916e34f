//! Drives the real binary in a temporary folder.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;
use soctok::vision::image::Rgb;

/// Two notes, one after the other, and an axis over the second.
#[allow(dead_code, reason = "every test file includes this module and uses a part of it")]
pub const NOTES: &str = r#"
name = "notes"

[stages.first]
kind = "note"
text = "one"

[stages.second]
kind = "note"
text = "two"
after = "stage:first"

[axes.ending]
to = ["second.text"]
values = ["two", "three"]
"#;

/// A small chain of real stages and two notes: folders of pictures → features → packs → projector → perplexity, and
/// pictures under a manifest of the user's own. [`Folder::with_chain`] makes what it reads.
#[allow(dead_code, reason = "every test file includes this module and uses a part of it")]
pub const CHAIN: &str = r#"
name = "chain"

[data.pictures]
path = "pictures"
[data.listed]
path = "listed/manifest.csv"
[data.captions]
path = "captions.csv"
[models.language]
path = "language"

[stages.frames]
kind = "frame_manifest"
folder = "data:pictures"

[stages.features]
kind = "encode_frames"
frames = "stage:frames"
method = "random_vit"
vit_hidden = 16
vit_layers = 1
vit_heads = 2

[stages.listed]
kind = "encode_frames"
frames = "data:listed"
method = "random_vit"
vit_hidden = 16
vit_layers = 1
vit_heads = 2

[stages.packs]
kind = "scene_packs"
text = "data:captions"
features = "stage:features"
local_frame = "rank_uniform"

[stages.projector]
kind = "train_projector"
text = "data:captions"
packs = "stage:packs"
inject = "full"
steps = 6
batch = 2
lr = 1e-3

[stages.perplexity]
kind = "perplexity"
text = "data:captions"
packs = "stage:packs"
projector = "stage:projector"

[stages.first]
kind = "note"
text = "one"

[stages.second]
kind = "note"
text = "two"
after = "stage:first"
"#;

/// The captions that [`CHAIN`] reads.
#[allow(dead_code, reason = "every test file includes this module and uses a part of it")]
pub const CAPTIONS: &str = "clip_id,split,caption,pos\n\
    a,train,the cat sat near the door,DET NOUN VERB ADP DET NOUN\n\
    b,train,a man waves to the child,DET NOUN VERB ADP DET NOUN\n\
    c,train,the child runs to the tree,DET NOUN VERB ADP DET NOUN\n\
    d,test,the man sat near the tree,DET NOUN VERB ADP DET NOUN\n";

/// A temporary folder in which soctok runs.
pub struct Folder(tempfile::TempDir);

#[allow(dead_code, reason = "every test file includes this module and uses a part of it")]
impl Folder {
    /// An empty folder.
    pub fn new() -> Self {
        Self(tempfile::tempdir().expect("a temporary folder"))
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Writes a file in it.
    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path().join(name);
        std::fs::create_dir_all(path.parent().expect("a file has a folder")).expect("makes the folder");
        std::fs::write(&path, text).expect("writes");
        path
    }

    /// A folder with `chain.toml` ([`CHAIN`]) and all that it reads: captions, two pictures of each of four clips, the
    /// smallest language model of the fixtures.
    pub fn with_chain() -> Self {
        let folder = Self::new();
        folder.write("chain.toml", CHAIN);
        folder.write("captions.csv", CAPTIONS);
        let mut manifest = String::from("split,clip_id,frame_path,t_sec\n");
        for (number, clip) in ["a", "b", "c", "d"].iter().enumerate() {
            for frame in 0..2 {
                // Another pattern for every picture; its numbers have no meaning.
                let value = |pixel: usize| ((pixel * (number + 2) * 37) ^ (frame * 91) ^ (number * 53)) as u8;
                let picture = Rgb::new(56, 56, (0..56 * 56 * 3).map(value).collect());
                for path in [format!("pictures/{clip}/frame_{frame}.png"), format!("listed/{clip}{frame}.png")] {
                    let path = folder.path().join(path);
                    std::fs::create_dir_all(path.parent().expect("a file has a folder")).expect("makes the folder");
                    picture.save_png(&path).expect("writes");
                }
                manifest += &format!("test,{clip},{clip}{frame}.png,{frame}\n");
            }
        }
        folder.write("listed/manifest.csv", &manifest);
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
        std::fs::create_dir_all(folder.path().join("language")).expect("makes the folder");
        for (from, to) in [
            ("gemma2_tiny/config.json", "config.json"),
            ("gemma2_tiny/model.safetensors", "model.safetensors"),
            ("tokenizer.json", "tokenizer.json"),
        ] {
            std::fs::copy(fixtures.join(from), folder.path().join("language").join(to)).expect("copies");
        }
        folder
    }

    /// Every file that the steps of a store left, with its bytes: all that is promised to be the same in equal runs. Times
    /// and messages (`step.json`, `log.txt`) are no part of it.
    pub fn results(&self) -> BTreeMap<String, Vec<u8>> {
        let steps = self.path().join("soctok-store/steps");
        let mut files = BTreeMap::new();
        for step in std::fs::read_dir(&steps).expect("reads") {
            let step = step.expect("reads").file_name().into_string().expect("is text");
            for file in std::fs::read_dir(steps.join(&step)).expect("reads") {
                let path = file.expect("reads").path();
                let name = path.file_name().expect("has a name").to_string_lossy().into_owned();
                if path.is_file() && name != "step.json" && name != "log.txt" {
                    files.insert(format!("{step}/{name}"), std::fs::read(&path).expect("reads"));
                }
            }
        }
        files
    }

    /// The command `soctok ARGUMENTS` in the folder, with no setting from outside.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_soctok"));
        command.args(arguments).current_dir(self.path()).env_remove("RUST_BACKTRACE").env_remove("RUST_LOG");
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("SOCTOK_")) {
            command.env_remove(name);
        }
        // What soctok learns of the machine stays in the folder.
        command.env("XDG_CACHE_HOME", self.path().join("cache"));
        command
    }

    /// Runs it and returns what came of it.
    pub fn soctok(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("soctok starts")
    }

    /// Runs it; it must end with 0. Returns stdout.
    pub fn ok(&self, arguments: &[&str]) -> String {
        let output = self.soctok(arguments);
        let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
        assert_eq!(output.status.code(), Some(0), "soctok {arguments:?}\nstdout: {stdout}\nstderr: {stderr}");
        stdout
    }

    /// Runs it with `--json`; it must end with 0.
    pub fn json(&self, arguments: &[&str]) -> Value {
        let stdout = self.ok(&[arguments, &["--json"]].concat());
        serde_json::from_str(&stdout).unwrap_or_else(|error| panic!("{error} in {stdout}"))
    }
}

/// Bytes as text.
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
