//! The plan: the steps that the points of an experiment need, each once, with their keys.
//!
//! Nothing runs here, and nothing is written but `soctok.lock` when the commit of a hub model is asked for, and seals of
//! artifacts that were read to know that they are whole. Points share a node while nothing of it or above it differs, so a step is
//! found by its node's address first and by its identity second: two stages of other names with the same settings and
//! inputs are one step.

pub mod estimate;
pub mod explain;
pub mod inputs;
pub mod key;
pub mod pace;

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use litemap::LiteMap;
use serde_json::{Value, json};

use crate::comparisons::{self, ComparisonKind, Selection};
use crate::experiment::{ComparisonSpec, Experiment, Node, Point, Source};
use crate::stages::{Kind, kind::ANY};
use crate::store::hub::{Hub, HubError, Known, Lock};
use crate::store::{Store, step_name};
use inputs::{Content, InputError, Listing};

/// Why no plan could be made.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// External content cannot be identified.
    #[error("`{reference}`: {source}")]
    Input { reference: String, source: InputError },
    /// A hub model cannot be identified or brought.
    #[error("`{reference}`: {source}")]
    Hub { reference: String, source: HubError },
    /// A reference to nothing, which the checks of the experiment file let through.
    #[error("`{0}` is not in the experiment file")]
    Unknown(String),
    /// A stage kind that the experiment names is not in the list given to the planner.
    #[error("no stage kind `{0}`\nhint: give the planner the list of kinds that checked the experiment")]
    UnknownKind(String),
}

/// How much may be read to make a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    /// Inputs of which at most this many bytes are not remembered; larger ones are pending. No server is asked.
    AtMost(u64),
    /// Every byte that counts; the commit of a hub model that no lock tells is asked for.
    Everything,
}

impl Reading {
    /// In bytes.
    fn limit(self) -> u64 {
        match self {
            Self::AtMost(bytes) => bytes,
            Self::Everything => u64::MAX,
        }
    }
}

/// The plan of an experiment.
#[derive(Debug)]
pub struct Plan<'a> {
    /// Every step once, inputs before what needs them.
    pub steps: Vec<Step<'a>>,
    /// One for each point of the experiment, in its order.
    pub points: Vec<PlannedPoint<'a>>,
    /// Comparison → step; a comparison all of whose points do not apply has none.
    pub comparisons: BTreeMap<&'a str, usize>,
    /// The files of each external input that was identified, by its digest.
    pub listings: BTreeMap<String, Listing>,
}

/// What a step does.
#[derive(Clone)]
pub enum Work<'a> {
    /// Runs a stage.
    Stage { kind: &'a Kind, node: Arc<Node> },
    /// Compares arms.
    Comparison { kind: ComparisonKind, spec: &'a ComparisonSpec, arms: Vec<Arm> },
}

/// One point as a comparison sees it.
#[derive(Clone, Debug)]
pub struct Arm {
    /// Axis → label, and `ablation`.
    pub coordinates: BTreeMap<String, String>,
    /// The step whose artifact is compared.
    pub step: usize,
}

impl std::fmt::Debug for Work<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(self.kind())
    }
}

impl Work<'_> {
    /// The stage or comparison kind, as in the step's name.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Stage { kind, .. } => kind.name,
            Self::Comparison { kind, .. } => kind.name,
        }
    }
}

/// One unit of work.
#[derive(Debug)]
pub struct Step<'a> {
    /// Names of the stages (or the comparison) that it is, sorted.
    pub stages: Vec<&'a str>,
    /// What it does.
    pub work: Work<'a>,
    /// Its inputs by field.
    pub inputs: LiteMap<String, StepInput>,
    /// What the key is the digest of, in its canonical form; pending content stands in it by path.
    pub canonical: String,
    /// Digest of `canonical`; stands for nothing while `is_pending`.
    pub key: String,
    /// Does it rest on content that was not read?
    pub is_pending: bool,
    /// Does its artifact stand in the store?
    pub is_done: bool,
    /// Must it run for the targets to be reached?
    pub is_needed: bool,
    /// How many points it serves.
    pub points: usize,
}

impl Step<'_> {
    /// `<kind>-<key>`.
    pub fn name(&self) -> String {
        step_name(self.work.kind(), &self.key)
    }

    /// What the key is the digest of.
    pub fn identity(&self) -> Value {
        serde_json::from_str(&self.canonical).expect("the planner writes JSON")
    }
}

/// Where an input of a step comes from.
#[derive(Clone, Debug)]
pub enum StepInput {
    /// Another step (its index).
    Step { reference: String, step: usize },
    /// A model or data from outside.
    External {
        reference: String,
        path: PathBuf,
        content: Content,
        /// The artifact kinds that it is read as, which say what files belong to it ([`inputs::files`]).
        kinds: Vec<String>,
    },
}

/// A point with its steps.
#[derive(Debug)]
pub struct PlannedPoint<'a> {
    /// The point.
    pub point: &'a Point,
    /// Stage → step, for every stage that is reached; empty when the point does not apply.
    pub steps: LiteMap<&'a str, usize>,
    /// The run hash; `None` when the point does not apply or rests on pending content.
    pub run: Option<String>,
}

/// Plans an experiment. Reads from `store` which steps are done.
pub fn plan<'a>(
    experiment: &'a Experiment,
    kinds: &'a [Kind],
    store: &Store,
    reading: Reading,
) -> Result<Plan<'a>, PlanError> {
    let mut planner = Planner {
        experiment,
        kinds: kinds.iter().map(|kind| (kind.name, kind)).collect(),
        store,
        reading,
        steps: Vec::new(),
        by_node: HashMap::new(),
        by_key: HashMap::new(),
        external: HashMap::new(),
        listings: BTreeMap::new(),
    };
    let points = experiment.points.iter().map(|point| planner.point(point)).collect::<Result<Vec<_>, _>>()?;
    let mut comparisons = BTreeMap::new();
    for spec in &experiment.comparisons {
        if let Some(step) = planner.comparison(spec, &points) {
            comparisons.insert(spec.name.as_str(), step);
        }
    }
    let (mut steps, listings) = (planner.steps, planner.listings);
    for step in &mut steps {
        step.stages.sort_unstable();
        step.stages.dedup();
        step.is_done = !step.is_pending && store.is_done_within(&step.name(), reading.limit());
    }
    let targets = points
        .iter()
        .flat_map(|planned| planned.point.targets.iter().filter_map(|target| planned.steps.get(&**target).copied()));
    let roots: Vec<usize> = targets.chain(comparisons.values().copied()).collect();
    mark_needed(&mut steps, roots);
    Ok(Plan { steps, points, comparisons, listings })
}

/// Brings the files of pinned hub models that the wanted steps read and that the cache lacks.
pub fn bring_models(experiment: &Experiment, plan: &mut Plan<'_>, wanted: &[bool]) -> Result<(), PlanError> {
    let inputs =
        plan.steps.iter_mut().zip(wanted).filter(|(_, wanted)| **wanted).flat_map(|(step, _)| &mut step.inputs);
    for (_, input) in inputs {
        let StepInput::External { reference, path, .. } = input else { continue };
        let model = reference.strip_prefix("model:").and_then(|name| experiment.models.get(name));
        let Some(Source::Hub { repository, revision }) = model.map(|model| &model.source) else { continue };
        if path.as_os_str().is_empty() {
            let failed = |source| PlanError::Hub { reference: reference.clone(), source };
            let mut lock = Lock::load(Path::new(".")).map_err(failed)?;
            *path = Hub::from_env().resolve(repository, revision.as_deref(), &mut lock).map_err(failed)?.folder;
        }
    }
    Ok(())
}

/// A done step needs nothing; what is not done needs its inputs.
fn mark_needed(steps: &mut [Step<'_>], mut open: Vec<usize>) {
    while let Some(index) = open.pop() {
        let step = &mut steps[index];
        if step.is_done || step.is_needed {
            continue;
        }
        step.is_needed = true;
        open.extend(step.inputs.values().filter_map(|input| match input {
            StepInput::Step { step, .. } => Some(*step),
            StepInput::External { .. } => None,
        }));
    }
}

struct Planner<'a, 's> {
    experiment: &'a Experiment,
    kinds: HashMap<&'static str, &'a Kind>,
    store: &'s Store,
    reading: Reading,
    steps: Vec<Step<'a>>,
    by_node: HashMap<*const Node, usize>,
    by_key: HashMap<(&'static str, String), usize>,
    external: HashMap<(String, Vec<String>), (PathBuf, Content)>,
    listings: BTreeMap<String, Listing>,
}

impl<'a> Planner<'a, '_> {
    fn point(&mut self, point: &'a Point) -> Result<PlannedPoint<'a>, PlanError> {
        let mut planned = PlannedPoint { point, steps: LiteMap::new(), run: None };
        if point.not_applicable.is_some() {
            return Ok(planned);
        }
        for target in point.targets.iter() {
            self.stage(point, target, &mut planned.steps)?;
        }
        for &step in planned.steps.values() {
            self.steps[step].points += 1;
        }
        if planned.steps.values().all(|&step| !self.steps[step].is_pending) {
            planned.run = Some(key::run(planned.steps.iter().map(|(name, &step)| (*name, &*self.steps[step].key))));
        }
        Ok(planned)
    }

    /// The step of a stage of a point; upstream first.
    fn stage(
        &mut self,
        point: &'a Point,
        name: &str,
        reached: &mut LiteMap<&'a str, usize>,
    ) -> Result<Option<usize>, PlanError> {
        let Some((name, node)) = point.stages.get_key_value(name) else { return Ok(None) };
        if let Some(&step) = reached.get(&**name) {
            return Ok(Some(step));
        }
        let kind = *self.kinds.get(node.kind).ok_or_else(|| PlanError::UnknownKind(node.kind.into()))?;
        let known = self.by_node.get(&Arc::as_ptr(node)).copied();
        let mut inputs = LiteMap::with_capacity(if known.is_some() { 0 } else { node.inputs.len() });
        for (field, reference) in &node.inputs {
            // What is upstream is reached from here whether this step is known or not.
            let input = match reference.parts() {
                Some(("stage", upstream)) => self
                    .stage(point, upstream, reached)?
                    .map(|step| StepInput::Step { reference: reference.0.clone(), step }),
                _ if known.is_some() => None,
                Some((space, external)) => Some(self.external(kind, field, space, external)?),
                None => None,
            };
            if let Some(input) = input.filter(|_| known.is_none()) {
                inputs.insert(field.clone(), input);
            }
        }
        let step = match known {
            Some(step) => step,
            None => {
                let step = self.step(kind, node, inputs);
                self.by_node.insert(Arc::as_ptr(node), step);
                step
            }
        };
        self.steps[step].stages.push(name);
        if self.steps[step].stages.len() > 8 {
            self.steps[step].stages.sort_unstable();
            self.steps[step].stages.dedup();
        }
        reached.insert(name, step);
        Ok(Some(step))
    }

    fn step(&mut self, kind: &'a Kind, node: &Arc<Node>, inputs: LiteMap<String, StepInput>) -> usize {
        let is_pending = inputs.values().any(|input| match input {
            StepInput::Step { step, .. } => self.steps[*step].is_pending,
            StepInput::External { content, .. } => matches!(content, Content::Pending { .. }),
        });
        let parts = inputs.iter().map(|(field, input)| {
            let part = match input {
                StepInput::Step { step, .. } => key::Input::Step(&self.steps[*step].key),
                StepInput::External { content: Content::Known(digest), .. } => key::Input::Content(digest),
                StepInput::External { path, content: Content::Pending { .. }, .. } => key::Input::Pending(path),
            };
            (field.as_str(), part)
        });
        let canonical = key::identity(kind, &node.settings, parts);
        self.add(Work::Stage { kind, node: node.clone() }, inputs, canonical, is_pending)
    }

    fn add(
        &mut self,
        work: Work<'a>,
        inputs: LiteMap<String, StepInput>,
        canonical: String,
        is_pending: bool,
    ) -> usize {
        let key = key::digest(&canonical);
        let index = self.steps.len();
        let step = *self.by_key.entry((work.kind(), key.clone())).or_insert(index);
        if step != index {
            return step;
        }
        self.steps.push(Step {
            stages: Vec::new(),
            work,
            inputs,
            canonical,
            key,
            is_pending,
            is_done: false,
            is_needed: false,
            points: 0,
        });
        index
    }

    fn external(&mut self, kind: &Kind, field: &str, space: &str, name: &str) -> Result<StepInput, PlanError> {
        let reference = format!("{space}:{name}");
        let table = if space == "model" { &self.experiment.models } else { &self.experiment.data };
        let declared = table.get(name).and_then(|external| external.kind.as_deref());
        let accepted = kind.accepts(field).unwrap_or_default();
        let kinds: Vec<String> = match declared {
            // A field that accepts anything reads it as what the file says that it is.
            Some(declared) if accepted.contains(&ANY) => vec![declared.to_owned()],
            _ => accepted.into_iter().map(str::to_owned).collect(),
        };
        let memory = (reference.clone(), kinds.clone());
        if let Some((path, content)) = self.external.get(&memory) {
            return Ok(StepInput::External { reference, path: path.clone(), content: content.clone(), kinds });
        }
        let source = table.get(name).map(|external| &external.source);
        let (path, content) = match source {
            Some(Source::Path(path)) => {
                let accepts: Vec<&str> = kinds.iter().map(String::as_str).collect();
                let (content, listing) = inputs::content(path, &accepts, self.store.signatures(), self.reading.limit())
                    .map_err(|source| PlanError::Input { reference: reference.clone(), source })?;
                if let Content::Known(digest) = &content {
                    self.listings.insert(digest.clone(), listing);
                }
                (path.clone(), content)
            }
            Some(Source::Hub { repository, revision }) => self.hub(&reference, repository, revision.as_deref())?,
            None => {
                return Err(PlanError::Unknown(reference));
            }
        };
        self.external.insert(memory, (path.clone(), content.clone()));
        Ok(StepInput::External { reference, path, content, kinds })
    }

    /// Folder and content of a hub model. A plan that may read asks the server what no lock or cache tells; the files
    /// themselves are brought only when a step needs them (the path is empty until then).
    fn hub(&self, reference: &str, repository: &str, revision: Option<&str>) -> Result<(PathBuf, Content), PlanError> {
        let hub = Hub::from_env();
        let failed = |source| PlanError::Hub { reference: reference.to_owned(), source };
        let mut lock = Lock::load(Path::new(".")).map_err(failed)?;
        let known = match self.reading {
            Reading::Everything => hub.pin(repository, revision, &mut lock),
            Reading::AtMost(_) => hub.known(repository, revision, &lock),
        };
        let known = known.map_err(failed)?;
        let digest = |identity: String| Content::Known(blake3::hash(identity.as_bytes()).to_hex().to_string());
        match (known.identity(repository), known) {
            (Some(identity), Known::Pinned { folder, .. }) => Ok((folder.unwrap_or_default(), digest(identity))),
            _ => Ok((PathBuf::new(), Content::Pending { files: 0, bytes: 0 })),
        }
    }

    /// The step of a comparison: over the points that one of its selections chooses and that reach its stage.
    fn comparison(&mut self, spec: &'a ComparisonSpec, points: &[PlannedPoint<'a>]) -> Option<usize> {
        let kind = comparisons::kinds().into_iter().find(|kind| kind.name == spec.kind)?;
        let sides: Vec<Selection> = kind
            .selections()
            .filter_map(|side| serde_json::from_value(spec.settings.get(side)?.clone()).ok())
            .collect();
        let mut arms = Vec::new();
        for planned in points {
            let Some(&step) = planned.steps.get(spec.of.0.as_str()) else { continue };
            let mut coordinates = BTreeMap::clone(&planned.point.coordinates);
            let ablation = planned.point.ablation.clone().unwrap_or_else(|| "base".into());
            coordinates.insert("ablation".into(), ablation);
            if sides.is_empty() || sides.iter().any(|side| side.selects(&coordinates)) {
                arms.push(Arm { coordinates, step });
            }
        }
        if arms.is_empty() {
            return None;
        }
        let listed: Vec<Value> = arms
            .iter()
            .map(|arm| json!({ "coordinates": arm.coordinates, "step": self.steps[arm.step].key }))
            .collect();
        let canonical = key::canonical(&json!({
            "scheme": key::SCHEME, "kind": kind.name, "version": kind.version,
            "settings": spec.settings, "of": spec.of.1, "arms": listed,
        }));
        let is_pending = arms.iter().any(|arm| self.steps[arm.step].is_pending);
        let inputs = arms.iter().enumerate().map(|(index, arm)| {
            (format!("{index:06}"), StepInput::Step { reference: format!("stage:{}", spec.of.0), step: arm.step })
        });
        let step =
            self.add(Work::Comparison { kind, spec, arms: arms.clone() }, inputs.collect(), canonical, is_pending);
        self.steps[step].stages.push(&spec.name);
        Some(step)
    }
}
