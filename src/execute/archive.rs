//! Archives: runs with the artifacts of their steps in one zip file, to be replayed from another store.
//!
//! ```text
//! README.md                   what it holds and how to replay it
//! archive.json                format, runs, links for people, steps, links of the early cut-off
//! inputs.json                 external inputs: reference, path, digest, files with their digests
//! experiments/<digest>.toml   experiment files that made the runs
//! soctok.lock                 the commits of hub models, when the working folder has it
//! runs/<run hash>/…           experiment.toml, results.json, provenance.json
//! comparisons/<experiment>    comparison → artifact
//! steps/<kind>-<key>/…        artifacts (with `--no-artifacts` their records and figures only)
//! ```
//!
//! What comes in is not trusted: names must stay below their folder, every output must have the bytes of its record, every
//! experiment file those of its digest and every record the key of its identity before anything of it stands in the store.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufReader, BufWriter, Write};
use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipArchive, ZipWriter};

use super::files::{self, is_hex};
use crate::plan::key;
use crate::store::digest::files_below;
use crate::store::{StepRecord, Store, StoreError, io, lease, output_digest, read_json, step_name, sync};

/// Raised when archives are laid out in another way. Those of format 1 have no experiment files and are read too.
const FORMAT: u32 = 2;
/// Files that are kept of a step without its artifact.
const RECORDS: [&str; 2] = ["step.json", "summary.json"];

/// Why an archive could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// The archive is not what this version reads, or not whole.
    #[error("`{path}`: {reason}\nhint: {hint}")]
    Invalid { path: PathBuf, reason: String, hint: &'static str },
    /// Reading or writing the archive failed.
    #[error("`{path}`: {source}")]
    Io { path: PathBuf, source: std::io::Error },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// `archive.json`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Contents {
    /// The layout.
    format: u32,
    /// The version that wrote it.
    soctok: String,
    /// Does it hold artifacts, or records only?
    pub artifacts: bool,
    /// Run hashes.
    pub runs: Vec<String>,
    /// `experiment/label` → run hash.
    pub links: BTreeMap<String, String>,
    /// Experiments whose comparisons it holds.
    comparisons: Vec<String>,
    /// Experiment → digest of its file.
    #[serde(default)]
    pub experiments: BTreeMap<String, String>,
    /// Digests of further experiment files: what was run under these names before.
    #[serde(default)]
    files: BTreeSet<String>,
    /// Artifacts.
    pub steps: Vec<String>,
    /// Steps whose outputs are those of another → that other.
    aliases: BTreeMap<String, String>,
}

impl Contents {
    /// Digests of all experiment files.
    fn files(&self) -> BTreeSet<&String> {
        self.experiments.values().chain(&self.files).collect()
    }
}

/// What to put into an archive.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// Run hashes.
    pub runs: BTreeSet<String>,
    /// `experiment/label` → run hash.
    pub links: BTreeMap<String, String>,
    /// Experiments whose comparisons go along.
    pub experiments: BTreeSet<String>,
}

/// An external input of a step in an archive.
#[derive(Debug, Serialize, Deserialize)]
struct ExternalInput {
    path: PathBuf,
    digest: String,
    files: BTreeMap<String, String>,
}

/// Writes an archive to `path`, which must not exist. `lock` is the working folder's `soctok.lock`.
pub fn export(
    store: &Store,
    selection: &Selection,
    artifacts: bool,
    lock: Option<&Path>,
    path: &Path,
) -> Result<Contents, ArchiveError> {
    let contents = contents(store, selection, artifacts)?;
    let failed = |source| ArchiveError::Io { path: path.to_owned(), source };
    let draft = path.with_extension(format!("part-{}", lease::unique()));
    let file = File::create_new(&draft).map_err(failed)?;
    let written = pack(store, &contents, lock, file, path);
    let finished = written.and_then(|()| {
        // Two that write the same name: the second finds it taken and leaves it alone.
        std::fs::hard_link(&draft, path).map_err(failed)
    });
    std::fs::remove_file(&draft).ok();
    finished.map(|()| contents)
}

fn contents(store: &Store, selection: &Selection, artifacts: bool) -> Result<Contents, StoreError> {
    let mut steps = BTreeSet::new();
    let mut aliases = BTreeMap::new();
    let mut add = |artifact: &str| {
        let name = artifact.trim_start_matches("steps/").to_owned();
        if !store.is_done(&name) {
            return Err(StoreError::Damaged {
                path: store.artifact(&name),
                reason: "the artifact of a run is gone; run its experiment again".to_owned(),
            });
        }
        if let Some(target) = store.alias_of(&name) {
            aliases.insert(name, target.clone());
            steps.insert(target);
        } else {
            steps.insert(name);
        }
        Ok(())
    };
    let (mut experiments, mut files) = (BTreeMap::new(), BTreeSet::new());
    for run in &selection.runs {
        let results: serde_json::Value = read_json(&store.root().join("runs").join(run).join("results.json"))?;
        // What an import brought is not believed.
        let file = results["experiment_file"].as_str().filter(|digest| is_hex(digest));
        let file = file.filter(|digest| files::path(store, digest).is_file());
        if let (Some(name), Some(digest)) = (results["experiment"].as_str().filter(|name| is_plain(name)), file) {
            experiments.insert(name.to_owned(), digest.to_owned());
            files.insert(digest.to_owned());
        }
        for stage in results["stages"].as_object().into_iter().flat_map(|stages| stages.values()) {
            add(stage["artifact"].as_str().unwrap_or_default())?;
        }
    }
    let mut compared = Vec::new();
    for experiment in &selection.experiments {
        let last = files::last(store, experiment).filter(|digest| files::path(store, digest).is_file());
        experiments.extend(last.map(|digest| (experiment.clone(), digest)));
        if let Some(comparisons) = comparisons(store, experiment)? {
            comparisons.values().try_for_each(|artifact| add(artifact))?;
            compared.push(experiment.clone());
        }
    }
    experiments.values().for_each(|digest| {
        files.remove(digest);
    });
    Ok(Contents {
        format: FORMAT,
        soctok: env!("CARGO_PKG_VERSION").to_owned(),
        artifacts,
        runs: selection.runs.iter().cloned().collect(),
        links: selection.links.clone(),
        comparisons: compared,
        experiments,
        files,
        steps: steps.into_iter().collect(),
        aliases,
    })
}

/// Comparison → artifact of an experiment, if it has any.
fn comparisons(store: &Store, experiment: &str) -> Result<Option<BTreeMap<String, String>>, StoreError> {
    let path = store.root().join("runs/by-name").join(experiment).join("comparisons.json");
    if path.is_file() { read_json(&path).map(Some) } else { Ok(None) }
}

fn pack(store: &Store, contents: &Contents, lock: Option<&Path>, file: File, path: &Path) -> Result<(), ArchiveError> {
    let failed = |source| ArchiveError::Io { path: path.to_owned(), source };
    let mut packer = Packer { zip: ZipWriter::new(BufWriter::new(file)), path };
    let inputs = external_inputs(store, contents)?;
    packer.text("README.md", &readme(contents, &inputs, path))?;
    packer.json("archive.json", contents)?;
    packer.json("inputs.json", &inputs)?;
    if let Some(lock) = lock {
        packer.file("soctok.lock", lock)?;
    }
    for digest in contents.files() {
        packer.file(&format!("experiments/{digest}.toml"), &files::path(store, digest))?;
    }
    for run in &contents.runs {
        let folder = store.root().join("runs").join(run);
        for (name, file) in files_below(&folder).map_err(io(&folder))? {
            packer.file(&format!("runs/{run}/{name}"), &file)?;
        }
    }
    for experiment in &contents.comparisons {
        if let Some(found) = comparisons(store, experiment)? {
            packer.json(&format!("comparisons/{experiment}"), &found)?;
        }
    }
    for step in &contents.steps {
        let folder = store.artifact(step);
        for (name, file) in files_below(&folder).map_err(io(&folder))? {
            if contents.artifacts || RECORDS.contains(&name.as_str()) {
                packer.file(&format!("steps/{step}/{name}"), &file)?;
            }
        }
    }
    let file = packer.zip.finish().map_err(|error| failed(error.into()))?;
    let file = file.into_inner().map_err(|error| failed(error.into_error()))?;
    file.sync_all().map_err(failed)
}

struct Packer<'a> {
    zip: ZipWriter<BufWriter<File>>,
    path: &'a Path,
}

impl Packer<'_> {
    fn failed(&self, source: impl Into<std::io::Error>) -> ArchiveError {
        ArchiveError::Io { path: self.path.to_owned(), source: source.into() }
    }

    fn text(&mut self, name: &str, text: &str) -> Result<(), ArchiveError> {
        self.zip.start_file(name, options(name)).map_err(|error| self.failed(error))?;
        self.zip.write_all(text.as_bytes()).map_err(|error| self.failed(error))
    }

    fn json(&mut self, name: &str, value: &impl Serialize) -> Result<(), ArchiveError> {
        let text = serde_json::to_string_pretty(value).map_err(|error| self.failed(error))?;
        self.text(name, &(text + "\n"))
    }

    fn file(&mut self, name: &str, from: &Path) -> Result<(), ArchiveError> {
        let mut reader = File::open(from).map_err(io(from))?;
        self.zip.start_file(name, options(name)).map_err(|error| self.failed(error))?;
        std::io::copy(&mut reader, &mut self.zip).map_err(|error| self.failed(error))?;
        Ok(())
    }
}

/// Text is compressed, numbers are stored: they hardly shrink. Nothing carries a time, so equal contents are equal bytes.
fn options(name: &str) -> SimpleFileOptions {
    let is_text = [".json", ".jsonl", ".csv", ".toml", ".txt", ".md", ".lock"].iter().any(|end| name.ends_with(end));
    let method = if is_text { CompressionMethod::Deflated } else { CompressionMethod::Stored };
    SimpleFileOptions::default()
        .compression_method(method)
        .last_modified_time(zip::DateTime::default())
        .large_file(true)
}

/// Reference → what the steps read from outside the store.
fn external_inputs(store: &Store, contents: &Contents) -> Result<BTreeMap<String, Vec<ExternalInput>>, StoreError> {
    let mut found: BTreeMap<String, Vec<ExternalInput>> = BTreeMap::new();
    for step in &contents.steps {
        for input in store.record(step)?.inputs.into_values().filter(|input| !input.reference.starts_with("stage:")) {
            let known = found.entry(input.reference).or_default();
            if !known.iter().any(|other| other.digest == input.digest) {
                let files = store.listing(&input.digest).unwrap_or_default();
                known.push(ExternalInput { path: input.path, digest: input.digest, files });
            }
        }
    }
    Ok(found)
}

fn readme(contents: &Contents, inputs: &BTreeMap<String, Vec<ExternalInput>>, path: &Path) -> String {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let mut text = format!(
        "# Runs of soctok {}\n\n{} runs and {} steps, written by `soctok export`. `archive.json` lists them.\n\n",
        contents.soctok,
        contents.runs.len(),
        contents.steps.len(),
    );
    if contents.artifacts {
        text.push_str(&format!("Replay:\n\n    soctok import {name} --store STORE\n    soctok verify --store STORE\n"));
        for experiment in contents.experiments.keys() {
            text.push_str(&format!("    soctok run STORE/runs/by-name/{experiment}/{} --store STORE\n", files::LINK));
        }
        for run in contents.runs.iter().take(10) {
            text.push_str(&format!("    soctok run STORE/runs/{run}/experiment.toml --store STORE\n"));
        }
        if contents.runs.len() > 10 {
            text.push_str("    … and the others of `runs/`\n");
        }
        text.push_str(
            "\nSteps are known by their settings and the bytes of their inputs, so nothing runs again that came along.\n",
        );
        if contents.experiments.is_empty() {
            text.push_str("The experiment file that made the runs finds them in this store too.\n");
        }
    } else {
        text.push_str("It holds records only (`--no-artifacts`): unpack it to read them; it cannot be replayed.\n");
    }
    if !contents.experiments.is_empty() {
        text.push_str(
            "\n## Experiments\n\nAs one file each: what it extended, the profile, the environment and `--set` are written into it.\n\n",
        );
    }
    for (name, digest) in &contents.experiments {
        text.push_str(&format!("- `{name}`: `experiments/{digest}.toml`\n"));
    }
    text.push_str("\n## From outside\n\n");
    if inputs.is_empty() {
        text.push_str("The steps read nothing from outside.\n");
    } else {
        text.push_str(
            "Data and models are no part of the archive. They must lie where the experiment file says (change it with \
             `--set data.NAME.path=…`), with these bytes; `inputs.json` has the digest of each file.\n\n",
        );
    }
    for (reference, contents) in inputs {
        for ExternalInput { path, digest, files } in contents {
            let count = if files.len() == 1 { "1 file".to_owned() } else { format!("{} files", files.len()) };
            text.push_str(&format!("- `{reference}`: `{}`, {count}, BLAKE3 {digest}\n", path.display()));
        }
    }
    text
}

/// What an import added to a store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Imported {
    /// Artifacts that the store did not have.
    pub steps: usize,
    /// Runs that it did not have.
    pub runs: usize,
}

/// Reads an archive into a store. Returns what it holds, what was new, and the text of its `soctok.lock`.
pub fn import(store: &Store, path: &Path) -> Result<(Contents, Imported, Option<String>), ArchiveError> {
    let failed = |source| ArchiveError::Io { path: path.to_owned(), source };
    let file = File::open(path).map_err(failed)?;
    let mut zip = ZipArchive::new(BufReader::new(file)).map_err(|error| {
        let hint = "give an archive that `soctok export` wrote, and copy it again if it was cut off on its way";
        ArchiveError::Invalid { path: path.to_owned(), reason: error.to_string(), hint }
    })?;
    store.create()?;
    let staging = Staging(store.root().join("work").join(format!("import-{}", lease::unique())));
    unpack(&mut zip, &staging.0, path)?;
    let arrived = Store::open(&staging.0);
    let contents = checked(&arrived, path)?;
    let inputs: BTreeMap<String, Vec<ExternalInput>> = read_json(&staging.0.join("inputs.json"))?;
    let mut imported = Imported::default();
    for name in &contents.steps {
        let record = arrived.record(name)?;
        // A step that another process makes at this moment has the same bytes: whoever is first stays.
        if !store.is_done(name) {
            store.clear(name)?;
            imported.steps += usize::from(std::fs::rename(arrived.artifact(name), store.artifact(name)).is_ok());
        }
        if !store.is_done(name) {
            return Err(StoreError::Damaged { path: store.artifact(name), reason: "no record".to_owned() }.into());
        }
        store.index_by_outputs(&key::of_record(&record), name)?;
    }
    for (name, target) in contents.aliases.iter().filter(|(name, _)| !store.is_done(name)) {
        store.alias(name, target)?;
    }
    sync(&store.root().join("steps"))?;
    for input in inputs.values().flatten().filter(|input| is_hex(&input.digest) && !input.files.is_empty()) {
        store.keep_listing(&input.digest, &input.files)?;
    }
    let arrived_file = |digest: &String| {
        let file = staging.0.join("experiments").join(format!("{digest}.toml"));
        std::fs::read_to_string(&file).map_err(io(&file))
    };
    for digest in contents.files() {
        files::keep(store, &arrived_file(digest)?)?;
    }
    imported.runs = runs(store, &staging.0, &contents)?;
    let leads = |name: &str| files::last(store, name).is_some_and(|digest| files::path(store, &digest).is_file());
    for (name, digest) in contents.experiments.iter().filter(|(name, _)| !leads(name)) {
        files::lead(store, name, digest)?;
    }
    let lock = std::fs::read_to_string(staging.0.join("soctok.lock")).ok();
    Ok((contents, imported, lock))
}

/// Puts runs, comparisons and links for people into their places; returns how many runs are new.
fn runs(store: &Store, staging: &Path, contents: &Contents) -> Result<usize, StoreError> {
    let mut new = 0;
    for run in &contents.runs {
        let (from, to) = (staging.join("runs").join(run), store.root().join("runs").join(run));
        if !to.join("results.json").is_file() && std::fs::rename(&from, &to).is_ok() {
            new += 1;
        }
    }
    let by_name = store.root().join("runs/by-name");
    for experiment in &contents.comparisons {
        let path = by_name.join(experiment).join("comparisons.json");
        if !path.is_file() {
            let folder = by_name.join(experiment);
            std::fs::create_dir_all(&folder).map_err(io(&folder))?;
            let from = staging.join("comparisons").join(experiment);
            store.write_atomically(&path, &std::fs::read(&from).map_err(io(&from))?)?;
        }
    }
    for (link, run) in &contents.links {
        let link = by_name.join(link);
        if let Some(folder) = link.parent() {
            std::fs::create_dir_all(folder).map_err(io(folder))?;
        }
        if std::fs::symlink_metadata(&link).is_err() {
            std::os::unix::fs::symlink(Path::new("../..").join(run), &link).map_err(io(&link))?;
        }
    }
    Ok(new)
}

fn unpack(zip: &mut ZipArchive<BufReader<File>>, staging: &Path, path: &Path) -> Result<(), ArchiveError> {
    let invalid = |reason: String| ArchiveError::Invalid {
        path: path.to_owned(),
        reason,
        hint: "it was not written by `soctok export`, or was changed since: do not use it",
    };
    for index in 0..zip.len() {
        let mut entry = zip.by_index(index).map_err(|error| invalid(error.to_string()))?;
        let name = entry.name().map_err(|error| invalid(error.to_string()))?.into_owned();
        if !is_inside(Path::new(&name)) || !entry.is_file() {
            return Err(invalid(format!("the entry `{name}` is no plain file below the archive")));
        }
        let target = staging.join(&name);
        if let Some(folder) = target.parent() {
            std::fs::create_dir_all(folder).map_err(io(folder))?;
        }
        let mut file = File::create_new(&target).map_err(io(&target))?;
        std::io::copy(&mut entry, &mut file).map_err(|error| invalid(format!("`{name}`: {error}")))?;
        file.sync_all().map_err(io(&target))?;
    }
    Ok(())
}

/// The list of contents, when everything that it lists is there and is what it says.
fn checked(arrived: &Store, path: &Path) -> Result<Contents, ArchiveError> {
    let invalid = |reason: String, hint: &'static str| ArchiveError::Invalid { path: path.to_owned(), reason, hint };
    let changed = "it was changed or cut off since `soctok export` wrote it: export it again";
    let contents: Contents = read_json(&arrived.root().join("archive.json")).map_err(|error| {
        invalid(format!("no list of contents: {error}"), "give an archive that `soctok export` wrote")
    })?;
    if !(1..=FORMAT).contains(&contents.format) {
        let reason = format!("it has format {}, this soctok reads 1 to {FORMAT}", contents.format);
        return Err(invalid(reason, "read it with the version that wrote it, named in its `archive.json`"));
    }
    if !contents.artifacts {
        let hint = "export it without `--no-artifacts`; to read the records unpack it";
        return Err(invalid("it holds records only and cannot be replayed".to_owned(), hint));
    }
    let listed: BTreeSet<&String> = contents.steps.iter().collect();
    if arrived.steps()?.iter().collect::<BTreeSet<_>>() != listed {
        return Err(invalid("its steps are not those that it lists".to_owned(), changed));
    }
    for name in &contents.steps {
        let record: StepRecord = arrived.record(name)?;
        if step_name(&record.kind, &record.key) != *name || key::digest(&key::canonical(&record.identity)) != record.key
        {
            return Err(invalid(format!("the record of `{name}` is another step's"), changed));
        }
        let problems = arrived.verify(name)?;
        if let Some(problem) = problems.first() {
            return Err(invalid(format!("step `{name}`: {problem}"), changed));
        }
        if output_digest(&record.outputs) != record.output_digest {
            return Err(invalid(format!("the digest of `{name}` is not that of its outputs"), changed));
        }
    }
    for digest in contents.files() {
        let file = arrived.root().join("experiments").join(format!("{digest}.toml"));
        let found = is_hex(digest).then(|| std::fs::read_to_string(&file).ok()).flatten();
        let is_it = |text: &String| blake3::hash(text.as_bytes()).to_hex().as_str() == digest;
        if found.as_ref().is_none_or(|text| !is_it(text)) {
            return Err(invalid(format!("the experiment file `{digest}` is missing or has other bytes"), changed));
        }
    }
    let runs = contents.runs.iter().chain(contents.links.values());
    let links_lead_in = contents.links.keys().all(|link| is_inside(Path::new(link)) && link.matches('/').count() == 1);
    let aliases_lead_in = contents
        .aliases
        .iter()
        .all(|(name, target)| is_plain(name) && listed.contains(target) && !listed.contains(name));
    let has_results = |run: &String| arrived.root().join("runs").join(run).join("results.json").is_file();
    if !runs.clone().all(|run| is_hex(run) && has_results(run))
        || !contents.comparisons.iter().chain(contents.experiments.keys()).all(|name| is_plain(name))
        || !links_lead_in
        || !aliases_lead_in
    {
        return Err(invalid("its list of contents names what it does not hold".to_owned(), changed));
    }
    Ok(contents)
}

/// Is it a relative path that never leaves its folder?
fn is_inside(path: &Path) -> bool {
    path.components().next().is_some() && path.components().all(|part| matches!(part, Component::Normal(_)))
}

/// Is it one part of a path?
fn is_plain(name: &str) -> bool {
    is_inside(Path::new(name)) && !name.contains('/')
}

/// A folder that goes with its owner.
struct Staging(PathBuf);

impl Drop for Staging {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).ok();
    }
}
