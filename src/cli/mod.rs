//! Commands: one file each. Data goes to stdout, all else to stderr.
//!
//! Exit codes: 0 done, 1 a step failed or data is odd, 2 wrong usage or experiment file, 3 results differ from published
//! values.
//!
//! [`main`] is the whole program for a given list of stage kinds: a program of your own calls it with kinds of its own.

mod archive;
mod check;
mod data;
mod devices;
mod diff;
mod forecast;
mod interrupt;
mod plan;
mod plot;
mod progress;
mod report;
mod reproduce;
mod results;
mod run;
mod schema;
mod show;
mod stages;
mod status;
mod table;
mod upkeep;

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, CommandFactory, Parser, Subcommand};

use serde_json::json;

use crate::execute::{StepError, archive::ArchiveError};
use crate::experiment::{self, Diagnostics, Experiment, LoadOptions};
use crate::plan::PlanError;
use crate::report::{page::PageError, plot::PlotError, render::Format, table::TableError};
use crate::stages::Kind;
use crate::store::{Store, StoreError};

/// Declarative experiments with social tokens: visual features projected into a frozen language model
#[derive(Debug, Parser)]
#[command(name = "soctok", version, disable_help_subcommand = true, max_term_width = 100)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Check an experiment file and report every mistake in it
    Check(Selected),
    /// Print the resolved experiment with the origin of each value
    Show(Selected),
    /// Print the steps that a run would take, without running anything
    Plan {
        #[command(flatten)]
        experiment: Selected,
        /// Say for each step why it will run
        #[arg(long)]
        explain: bool,
    },
    /// Run what is not done yet and print the tables
    Run {
        #[command(flatten)]
        experiment: Selected,
        /// Run only this stage or comparison and what it needs (may be repeated)
        #[arg(long, value_name = "NAME")]
        only: Vec<String>,
        /// Begin no other step once one has failed
        #[arg(long, conflicts_with = "keep_going")]
        fail_fast: bool,
        /// Run what does not need a failed step, whatever the experiment's `[run]` says
        #[arg(long)]
        keep_going: bool,
    },
    /// Print the figures of every run of an experiment
    Results {
        #[command(flatten)]
        experiment: Selected,
        /// How to print them
        #[arg(long, value_enum, default_value_t)]
        format: Format,
    },
    /// Print the tables of an experiment from results that are there
    Table {
        #[command(flatten)]
        experiment: Selected,
        /// Only these tables
        names: Vec<String>,
        /// How to print them
        #[arg(long, value_enum, default_value_t)]
        format: Format,
    },
    /// Write plots of what has run as SVG, each with its data as CSV
    Plot {
        #[command(flatten)]
        experiment: Selected,
        /// Only these plots
        names: Vec<String>,
        /// The folder to write into; left out, `plots/` and the experiment's name
        #[arg(short, long, value_name = "DIR")]
        output: Option<PathBuf>,
    },
    /// Write one HTML page of an experiment: what was asked, verdicts, tables, plots, provenance
    Report {
        #[command(flatten)]
        experiment: Selected,
        /// The file to write; left out, the experiment's name with `.html`
        #[arg(short, long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// Hold the tables against the published values of the file; runs first what is not done
    Reproduce {
        #[command(flatten)]
        experiment: Selected,
        /// Run nothing: compare what is there
        #[arg(long)]
        check: bool,
        /// How to print the comparison
        #[arg(long, value_enum, default_value_t)]
        format: Format,
    },
    /// Print how far a run is, from any terminal
    Status(Selected),
    /// Print the messages of a stage's steps
    Logs {
        #[command(flatten)]
        experiment: Selected,
        /// The stage or comparison
        stage: String,
    },
    /// Print what differs between two runs: settings, inputs, figures
    Diff {
        /// A run hash (its beginning is enough) or a name under runs/by-name
        first: String,
        /// Another
        second: String,
        #[command(flatten)]
        place: Place,
    },
    /// Compare the bytes of every artifact in a store with its record, or run finished steps again and compare
    Verify(Verify),
    /// Write runs with everything that their steps left into one file
    Export {
        /// Run hashes (their beginning is enough), names under runs/by-name, or experiments: all runs of each
        #[arg(required = true, value_name = "RUN")]
        runs: Vec<String>,
        /// The archive to write
        #[arg(short, long, value_name = "FILE")]
        output: Option<PathBuf>,
        /// Leave the outputs of steps out and keep their records and figures
        #[arg(long)]
        no_artifacts: bool,
        #[command(flatten)]
        place: Place,
    },
    /// Read an archive into a store, so that nothing of it has to run again
    Import {
        /// What `soctok export` wrote
        archive: PathBuf,
        #[command(flatten)]
        place: Place,
    },
    /// List the artifacts in a store that none of these experiments reaches, in any of their profiles
    Gc {
        /// The experiments whose artifacts are kept
        #[arg(required = true)]
        files: Vec<PathBuf>,
        /// Remove them
        #[arg(long)]
        delete: bool,
        /// The store's folder; left out, the one that the experiments name
        #[arg(long, value_name = "DIR")]
        store: Option<PathBuf>,
    },
    /// Look at data before an experiment does
    Data {
        #[command(subcommand)]
        command: DataCommand,
    },
    /// List the stage kinds, or the settings of one
    Stages {
        /// A stage kind
        kind: Option<String>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Print the JSON Schema of experiment files
    Schema {
        /// Write all schemas into this folder instead
        #[arg(long, value_name = "DIR")]
        write: Option<PathBuf>,
    },
    /// Print the completions of a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// List the devices that this build and this machine have
    Devices {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Subcommand)]
enum DataCommand {
    /// Say what a folder holds that an experiment could use, what it lacks, and what is odd in it
    Check {
        /// The folder
        folder: PathBuf,
        /// Frames per second of folders of frames, whose files tell no times
        #[arg(long, value_name = "N", default_value_t = 1.0)]
        fps: f64,
        /// Read only the beginning of each picture
        #[arg(long)]
        quick: bool,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

/// A store, for commands that need no experiment.
#[derive(Debug, Args)]
struct Place {
    /// The store's folder
    #[arg(long, value_name = "DIR", env = "SOCTOK_RUN__STORE", default_value = "soctok-store")]
    store: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What to verify.
#[derive(Debug, Args)]
struct Verify {
    /// The experiment whose store it is; needed to run steps again
    file: Option<PathBuf>,
    /// Run this many finished steps of the experiment again, beside the store, and compare what they leave
    #[arg(long, value_name = "N", requires = "file")]
    rerun: Option<NonZeroUsize>,
    /// Which steps are run again
    #[arg(long, default_value_t, requires = "rerun")]
    seed: u64,
    /// Change a setting, as in `projector.epochs=3` (may be repeated)
    #[arg(long = "set", value_name = "STAGE.FIELD=VALUE", requires = "file")]
    sets: Vec<String>,
    /// Use the settings of `[profiles.NAME]`
    #[arg(long, value_name = "NAME", requires = "file")]
    profile: Option<String>,
    /// The store's folder; left out, the one that the experiment names
    #[arg(long, value_name = "DIR")]
    store: Option<PathBuf>,
    /// The device on which steps run again
    #[arg(long, requires = "rerun")]
    device: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Verify {
    fn run(self, kinds: &[Kind], out: &mut dyn Write) -> Result<(), Failure> {
        let Self { file, rerun, seed, sets, profile, store, device, json } = self;
        let Some(file) = file else {
            let named = store.or_else(|| std::env::var_os("SOCTOK_RUN__STORE").map(PathBuf::from));
            return upkeep::verify(&existing(&named.unwrap_or_else(|| "soctok-store".into()))?, json, out);
        };
        let experiment = Selected { file, sets, profile, store, device, jobs: None, json }.load(kinds)?;
        let store = existing(&experiment.run.store)?;
        match rerun {
            Some(count) => upkeep::rerun(&experiment, kinds, &store, count.get(), seed, json, out),
            None => upkeep::verify(&store, json, out),
        }
    }
}

/// An experiment file and what is set above it.
#[derive(Debug, Args)]
pub struct Selected {
    /// The experiment file
    file: PathBuf,
    /// Change a setting, as in `projector.epochs=3` (may be repeated)
    #[arg(long = "set", value_name = "STAGE.FIELD=VALUE")]
    sets: Vec<String>,
    /// Use the settings of `[profiles.NAME]`
    #[arg(long, value_name = "NAME")]
    profile: Option<String>,
    /// The store's folder
    #[arg(long, value_name = "DIR")]
    store: Option<PathBuf>,
    /// The device: cpu, cuda:0, tch:cpu, tch:cuda:0, auto
    #[arg(long)]
    device: Option<String>,
    /// How many steps to run at once
    #[arg(long, value_name = "N")]
    jobs: Option<usize>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Selected {
    /// `--set`, profile and environment; `--store`, `--device` and `--jobs` are short for settings of `[run]`.
    fn options(&self) -> LoadOptions {
        let mut sets = self.sets.clone();
        if let Some(store) = &self.store {
            sets.push(format!("run.store={}", toml::Value::from(store.to_string_lossy().into_owned())));
        }
        if let Some(device) = &self.device {
            sets.push(format!("run.device={}", toml::Value::from(device.as_str())));
        }
        if let Some(jobs) = self.jobs {
            sets.push(format!("run.jobs={jobs}"));
        }
        LoadOptions { sets, profile: self.profile.clone(), environment: environment() }
    }

    /// Loads the experiment; notes go to stderr.
    fn load(&self, kinds: &[Kind]) -> Result<Experiment, Failure> {
        let experiment = experiment::load(&self.file, &self.options(), kinds)
            .map_err(|mistakes| if self.json { Failure::ExperimentAsJson(mistakes) } else { mistakes.into() })?;
        for note in &experiment.notes {
            say(note);
        }
        Ok(experiment)
    }
}

/// The variables that may name settings.
fn environment() -> Vec<(String, String)> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .filter(|(name, _)| name.starts_with("SOCTOK_"))
        .collect()
}

/// The store at `root`, which must be there.
fn existing(root: &Path) -> Result<Store, Failure> {
    if root.join("steps").is_dir() {
        return Ok(Store::open(root));
    }
    Err(Failure::Usage(format!("no store at `{}`\nhint: name it with `--store DIR`", root.display())))
}

/// Why a command did not do what was asked.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("{0}")]
    Experiment(#[from] Diagnostics),
    /// The same, for a program: stdout gets the mistakes too.
    #[error("{0}")]
    ExperimentAsJson(Diagnostics),
    #[error("{0}")]
    Usage(String),
    #[error(transparent)]
    Plan(#[from] PlanError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    #[error(transparent)]
    Table(#[from] TableError),
    #[error(transparent)]
    Plot(#[from] PlotError),
    #[error(transparent)]
    Page(#[from] PageError),
    #[error(transparent)]
    Step(#[from] StepError),
    #[error("output: {0}")]
    Output(#[from] io::Error),
    /// Steps failed; each has been reported.
    #[error("{0}")]
    Steps(String),
    /// The data is odd; each oddity has been reported.
    #[error("{0}")]
    Odd(String),
    /// Results differ from published values.
    #[error("{0}")]
    Differs(String),
}

impl Failure {
    fn code(&self) -> u8 {
        match self {
            Self::Experiment(_) | Self::ExperimentAsJson(_) | Self::Usage(_) | Self::Plan(_) => 2,
            Self::Archive(ArchiveError::Invalid { .. }) => 2,
            Self::Differs(_) => 3,
            Self::Archive(_)
            | Self::Store(_)
            | Self::Table(_)
            | Self::Plot(_)
            | Self::Page(_)
            | Self::Step(_)
            | Self::Output(_)
            | Self::Steps(_)
            | Self::Odd(_) => 1,
        }
    }
}

/// The whole program: reads the command line, runs the command with these stage kinds and returns the exit code.
///
/// `kinds` is [`crate::stages::kinds`], or that and kinds of your own; it is called after the command line was read, so
/// that `--version` and `--help` cost nothing.
pub fn main(kinds: impl FnOnce() -> Vec<Kind>) -> ExitCode {
    let arguments = Arguments::parse();
    crate::execute::log::init();
    ExitCode::from(call(arguments, &kinds()))
}

/// Runs a command with these stage kinds and returns the exit code.
pub fn call(arguments: Arguments, kinds: &[Kind]) -> u8 {
    let mut out = io::BufWriter::new(io::stdout().lock());
    let result = distinct(kinds).and_then(|()| command(arguments.command, kinds, &mut out));
    let result = result.and_then(|()| Ok(out.flush()?));
    match result {
        Ok(()) => 0,
        // `soctok … | head`: the reader has what it wanted.
        Err(Failure::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => 0,
        Err(failure @ (Failure::Experiment(_) | Failure::ExperimentAsJson(_))) => {
            say(&failure);
            if let Failure::ExperimentAsJson(mistakes) = &failure {
                // A reader who has gone reads the text.
                writeln!(out, "{:#}", json!({ "mistakes": mistakes })).and_then(|()| out.flush()).ok();
            }
            failure.code()
        }
        Err(failure) => {
            say(&format!("error: {failure}"));
            failure.code()
        }
    }
}

/// Two kinds of one name would make the second unreachable and its keys another's.
fn distinct(kinds: &[Kind]) -> Result<(), Failure> {
    let mut names = BTreeSet::new();
    match kinds.iter().find(|kind| !names.insert(kind.name)) {
        None => Ok(()),
        Some(twice) => Err(Failure::Usage(format!(
            "two stage kinds are called `{}`\nhint: give your kind another `KIND`",
            twice.name
        ))),
    }
}

fn command(command: Command, kinds: &[Kind], out: &mut dyn Write) -> Result<(), Failure> {
    match command {
        Command::Check(selected) => Ok(check::run(&selected.load(kinds)?, selected.json, out)?),
        Command::Show(selected) => {
            Ok(show::run(&experiment::show(&selected.file, &selected.options(), kinds)?, selected.json, out)?)
        }
        Command::Stages { kind, json } => stages::run(kinds, kind.as_deref(), json, out)?.map_err(Failure::Usage),
        Command::Data { command: DataCommand::Check { folder, fps, quick, json } } => {
            if !(fps.is_finite() && fps > 0.0) {
                return Err(Failure::Usage(format!("`--fps` is {fps}\nhint: give a number above 0")));
            }
            data::check(&folder, &crate::data::Options { fps, quick }, json, out)
        }
        Command::Schema { write } => Ok(schema::run(kinds, write.as_deref(), out)?),
        Command::Devices { json } => devices::run(json, out),
        Command::Plan { experiment, explain } => {
            plan::run(&experiment.load(kinds)?, kinds, explain, experiment.json, out)
        }
        Command::Run { mut experiment, only, fail_fast, keep_going } => {
            if fail_fast || keep_going {
                experiment.sets.push(format!("run.keep_going={keep_going}"));
            }
            run::run(&experiment.load(kinds)?, kinds, &only, experiment.json, out)
        }
        Command::Status(selected) => status::run(&selected.load(kinds)?, kinds, selected.json, out),
        Command::Logs { experiment, stage } => status::logs(&experiment.load(kinds)?, kinds, &stage, out),
        Command::Diff { first, second, place } => {
            diff::run(&Store::open(place.store), &first, &second, place.json, out)
        }
        Command::Verify(verify) => verify.run(kinds, out),
        Command::Export { runs, output, no_artifacts, place } => {
            archive::export(&existing(&place.store)?, &runs, output.as_deref(), !no_artifacts, place.json, out)
        }
        Command::Import { archive, place } => archive::import(&Store::open(place.store), &archive, place.json, out),
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Arguments::command(), program(), out);
            Ok(())
        }
        Command::Gc { files, delete, store } => {
            let mut experiments = Vec::new();
            for file in &files {
                for profile in upkeep::profiles(file) {
                    let options = LoadOptions { sets: Vec::new(), profile, environment: environment() };
                    experiments.push(experiment::load(file, &options, kinds)?);
                }
            }
            let named: BTreeSet<&PathBuf> = experiments.iter().map(|experiment| &experiment.run.store).collect();
            let root = match (store, named.first()) {
                (Some(store), _) => store,
                (None, Some(only)) if named.len() == 1 => (*only).clone(),
                _ => {
                    let text = "the experiments name several stores\nhint: say which with `--store DIR`";
                    return Err(Failure::Usage(text.into()));
                }
            };
            upkeep::collect(&existing(&root)?, &experiments, kinds, delete, out)
        }
        Command::Results { experiment, format } => {
            let format = if experiment.json { Format::Json } else { format };
            results::run(&experiment.load(kinds)?, kinds, format, out)
        }
        Command::Plot { experiment, names, output } => {
            plot::run(&experiment.load(kinds)?, kinds, &names, output.as_deref(), experiment.json, out)
        }
        Command::Report { experiment, output } => {
            report::run(&experiment.load(kinds)?, kinds, output.as_deref(), experiment.json, out)
        }
        Command::Reproduce { experiment, check, format } => {
            let format = if experiment.json { Format::Json } else { format };
            reproduce::run(&experiment.load(kinds)?, kinds, check, format, out)
        }
        Command::Table { experiment, names, format } => {
            let format = if experiment.json { Format::Json } else { format };
            table::run(&experiment.load(kinds)?, kinds, &names, format, out)
        }
    }
}

/// How the program is called: a program with kinds of its own has another name.
fn program() -> String {
    let path = std::env::args_os().next().map(PathBuf::from);
    let name = path.as_deref().and_then(Path::file_name).map(|name| name.to_string_lossy().into_owned());
    name.unwrap_or_else(|| "soctok".to_owned())
}

/// `1 step`, `2 steps`.
fn plural(count: usize, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

/// Writes a line to stderr. A terminal that was closed is no reason to stop.
fn say(text: &dyn std::fmt::Display) {
    writeln!(io::stderr(), "{text}").ok();
}

/// Fails with the last of `broken` when there is one; the others are said here.
fn told<E: Into<Failure> + std::fmt::Display>(mut broken: Vec<E>) -> Result<(), Failure> {
    let Some(last) = broken.pop() else { return Ok(()) };
    broken.iter().for_each(|error| say(&format!("error: {error}")));
    Err(last.into())
}

/// The store that the experiment names.
fn store(experiment: &Experiment) -> Store {
    Store::open(experiment.run.store.clone())
}
