//! From axes and ablations to points: every stage of every point with all its settings.
//!
//! A stage is normalised once for each different set of raw settings and upstream nodes, and equal results are one node,
//! so ten thousand points cost little more than their distinct stages.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use litemap::LiteMap;
use serde_json::Value;

use super::document::{Item, Report, Span};
use super::graph::{CYCLE_HINT, Graph, Target, references_in};
use super::rules::{RULES, Rule, Verdict};
use super::sweep::{ABLATION, Ablation, Axis, BASE, Sweep, selects};
use super::{Node, NotApplicable, Point, Settings};
use crate::stages::{Kind, Reference, StageError, Upstream};

type NodeId = u32;

/// Settings of a stage before normalisation, for some axis values and an ablation.
struct Raw {
    settings: Settings,
    /// Field → stage, default references included.
    references: Vec<(String, usize)>,
}

struct Resolved {
    node: Arc<Node>,
    stage: usize,
    /// Field → node, for the references that are left.
    upstream: Vec<(String, NodeId)>,
    /// The rules whose conditions hold here.
    hits: Vec<&'static Rule>,
}

pub(super) struct Resolver<'a> {
    graph: &'a Graph<'a>,
    sweep: &'a Sweep,
    targets: Vec<usize>,
    /// Stage → every stage that it can take something from, itself included.
    above: Vec<BTreeSet<usize>>,
    axes_of: Vec<Vec<usize>>,
    ablations_of: Vec<Vec<usize>>,
    raw_ids: HashMap<Vec<u32>, u32>,
    raws: Vec<Raw>,
    node_ids: HashMap<Vec<u32>, Option<NodeId>>,
    interned: HashMap<(usize, String, Vec<NodeId>), NodeId>,
    nodes: Vec<Resolved>,
}

/// More points than this in one experiment are refused: they would fill the memory before anything runs.
const MOST_POINTS: usize = 100_000;

/// Marks a choice of no ablation in memo keys.
const NO_ABLATION: u32 = u32::MAX;

impl<'a> Resolver<'a> {
    /// `targets` are the stages that each point must reach; empty: the sinks.
    pub fn new(graph: &'a Graph<'a>, sweep: &'a Sweep, targets: Vec<usize>) -> Self {
        let stages = graph.stages.len();
        let axes_of = |stage: usize| {
            let binds = |axis: usize| sweep.axes[axis].binds.iter().any(|target| target.stage == stage);
            (0..sweep.axes.len()).filter(|axis| binds(*axis)).collect()
        };
        let ablations_of = |stage: usize| {
            let sets = |ablation: &Ablation| ablation.sets.iter().any(|(target, _)| target.stage == stage);
            (0..sweep.ablations.len()).filter(|index| sets(&sweep.ablations[*index])).collect()
        };
        let direct = references(graph, sweep);
        let targets = match targets.is_empty() {
            true => (0..stages).filter(|stage| !direct.iter().any(|needed| needed.contains(stage))).collect(),
            false => targets,
        };
        Self {
            graph,
            sweep,
            targets,
            above: (0..stages).map(|stage| above(&direct, stage)).collect(),
            axes_of: (0..stages).map(axes_of).collect(),
            ablations_of: (0..stages).map(ablations_of).collect(),
            raw_ids: HashMap::new(),
            raws: Vec::new(),
            node_ids: HashMap::new(),
            interned: HashMap::new(),
            nodes: Vec::new(),
        }
    }

    /// All points, in the order of the axes (the last one fastest), each base before its ablations.
    pub fn points(&mut self, report: &mut Report) -> Vec<Point> {
        let sweep = self.sweep;
        let mut points = Vec::new();
        let mut idle: BTreeMap<usize, Vec<String>> = BTreeMap::new();
        let mut applied: BTreeSet<usize> = BTreeSet::new();
        let names: Vec<Arc<str>> = self.graph.stages.iter().map(|stage| stage.name.into()).collect();
        let targets: Arc<[Arc<str>]> = self.targets.iter().map(|stage| names[*stage].clone()).collect();
        let mut choice = vec![0_usize; sweep.axes.len()];
        if sweep.axes.iter().any(|axis| axis.values.is_empty()) {
            return points;
        }
        let product = sweep.axes.iter().try_fold(1, |product: usize, axis| product.checked_mul(axis.values.len()));
        let combinations = product.and_then(|product| product.checked_mul(1 + sweep.ablations.len()));
        if combinations.is_none_or(|combinations| combinations > 10 * MOST_POINTS) {
            too_many(report, sweep);
            return points;
        }
        loop {
            let axes = || sweep.axes.iter().zip(&choice);
            let label = |(axis, value): (&Axis, &usize)| (axis.name.clone(), axis.values[*value].label.clone());
            let coordinates: Arc<BTreeMap<String, String>> = Arc::new(axes().map(label).collect());
            let at = |name: &str| coordinates.get(name).map(String::as_str);
            let base = self.reach(report, &choice, None);
            for ablation in std::iter::once(None).chain((0..sweep.ablations.len()).map(Some)) {
                let named = ablation.map(|index| &sweep.ablations[index]);
                if named.is_some_and(|ablation| !ablation.filters.iter().all(|filter| selects(filter, at))) {
                    continue;
                }
                applied.extend(ablation);
                let name = named.map_or(BASE, |ablation| ablation.name.as_str());
                let with_ablation = |key: &str| if key == ABLATION { Some(name) } else { at(key) };
                if sweep.exclude.iter().any(|selection| selects(selection, with_ablation)) {
                    continue;
                }
                let reached = match ablation {
                    None => base.clone(),
                    Some(_) => self.reach(report, &choice, ablation),
                };
                let Some(reached) = reached else { continue };
                if let Some(index) = ablation.filter(|_| base.as_ref() == Some(&reached)) {
                    let shown: Vec<String> =
                        coordinates.iter().map(|(axis, label)| format!("{axis} = {label}")).collect();
                    idle.entry(index).or_default().push(shown.join(", "));
                }
                let not_applicable = self.judge(report, &reached, ablation);
                let node = |id: &NodeId| {
                    let resolved = &self.nodes[*id as usize];
                    (names[resolved.stage].clone(), resolved.node.clone())
                };
                if points.len() == MOST_POINTS {
                    too_many(report, sweep);
                    return points;
                }
                points.push(Point {
                    coordinates: coordinates.clone(),
                    ablation: named.map(|ablation| ablation.name.clone()),
                    stages: reached.iter().map(node).collect(),
                    targets: targets.clone(),
                    not_applicable,
                });
            }
            let Some(next) = (0..choice.len()).rev().find(|axis| choice[*axis] + 1 < sweep.axes[*axis].values.len())
            else {
                break;
            };
            choice[next] += 1;
            choice[next + 1..].fill(0);
        }
        self.note_idle(report, &idle, &applied);
        points
    }

    fn note_idle(&self, report: &mut Report, idle: &BTreeMap<usize, Vec<String>>, applied: &BTreeSet<usize>) {
        for (index, points) in idle {
            let ablation = &self.sweep.ablations[*index];
            let first = points.iter().find(|shown| !shown.is_empty());
            let counted = if points.len() == 1 { "1 point".to_owned() } else { format!("{} points", points.len()) };
            let place = first.map(|shown| format!(", the first at {shown}")).unwrap_or_default();
            let message = format!("ablation `{}` changes nothing in {}{place}", ablation.name, counted);
            report.note(ablation.span, message, "leave those points out with `where = { axis = [labels] }`");
        }
        for (index, ablation) in self.sweep.ablations.iter().enumerate() {
            if !applied.contains(&index) {
                let message = format!("ablation `{}` applies to no point", ablation.name);
                report.error(ablation.span, message, "its `where` (and those of what it combines) exclude each other");
            }
        }
    }

    /// The nodes that the targets reach, in the order of the stages; `None` when something was reported.
    fn reach(&mut self, report: &mut Report, choice: &[usize], ablation: Option<usize>) -> Option<Vec<NodeId>> {
        let mut known: Vec<Option<Option<NodeId>>> = vec![None; self.graph.stages.len()];
        let mut path = Vec::new();
        let mut open = Vec::new();
        let mut complete = true;
        for target in self.targets.clone() {
            match self.resolve(report, target, choice, ablation, &mut known, &mut path) {
                Some(id) => open.push(id),
                None => complete = false,
            }
        }
        let mut reached: Vec<Option<NodeId>> = vec![None; self.graph.stages.len()];
        while let Some(id) = open.pop() {
            let resolved = &self.nodes[id as usize];
            if reached[resolved.stage].replace(id).is_none() {
                open.extend(resolved.upstream.iter().map(|(_, upstream)| *upstream));
            }
        }
        complete.then(|| reached.into_iter().flatten().collect())
    }

    fn resolve(
        &mut self,
        report: &mut Report,
        stage: usize,
        choice: &[usize],
        ablation: Option<usize>,
        known: &mut [Option<Option<NodeId>>],
        path: &mut Vec<usize>,
    ) -> Option<NodeId> {
        if let Some(found) = known[stage] {
            return found;
        }
        if let Some(at) = path.iter().position(|on| *on == stage) {
            report.error(self.graph.stages[stage].name_span, self.graph.cycle(&path[at..]), CYCLE_HINT);
            return None;
        }
        path.push(stage);
        let raw = self.raw(stage, choice, ablation);
        let references = self.raws[raw as usize].references.len();
        let mut key = Vec::with_capacity(references + 1);
        key.push(raw);
        let mut complete = true;
        for index in 0..references {
            let upstream = self.raws[raw as usize].references[index].1;
            match self.resolve(report, upstream, choice, ablation, known, path) {
                Some(id) => key.push(id),
                None => complete = false,
            }
        }
        path.pop();
        let id = match (complete, self.node_ids.get(&key)) {
            (false, _) => None,
            (true, Some(found)) => *found,
            (true, None) => {
                let made = self.normalise(report, stage, raw, &key[1..]);
                self.node_ids.insert(key, made);
                made
            }
        };
        known[stage] = Some(id);
        id
    }

    fn raw(&mut self, stage: usize, choice: &[usize], ablation: Option<usize>) -> u32 {
        let ablation = ablation.filter(|index| self.ablations_of[stage].contains(index));
        let mut key: Vec<u32> = Vec::with_capacity(self.axes_of[stage].len() + 2);
        key.push(stage as u32);
        key.extend(self.axes_of[stage].iter().map(|axis| choice[*axis] as u32));
        key.push(ablation.map_or(NO_ABLATION, |index| index as u32));
        if let Some(found) = self.raw_ids.get(&key) {
            return *found;
        }
        let entry = &self.graph.stages[stage];
        let mut settings: Settings = entry
            .table
            .entries
            .iter()
            .filter(|field| field.key != "kind")
            .map(|field| (field.key.clone(), field.item.plain()))
            .collect();
        let chosen = self.axes_of[stage].iter().flat_map(|axis| &self.sweep.axes[*axis].values[choice[*axis]].sets);
        let ablated = ablation.iter().flat_map(|index| &self.sweep.ablations[*index].sets);
        for (target, item) in chosen.chain(ablated).filter(|(target, _)| target.stage == stage) {
            put(entry.kind, &mut settings, &target.field, item.plain());
        }
        let written = entry.kind.iter().flat_map(|kind| kind.references(&settings));
        let references = written.filter_map(|(field, text)| Some((field, self.graph.referred(text)?))).collect();
        let id = self.raws.len() as u32;
        self.raws.push(Raw { settings, references });
        self.raw_ids.insert(key, id);
        id
    }

    fn normalise(&mut self, report: &mut Report, stage: usize, raw: u32, upstream: &[NodeId]) -> Option<NodeId> {
        let entry = &self.graph.stages[stage];
        let kind = entry.kind?;
        let raw = &self.raws[raw as usize];
        let above = raw.references.iter().zip(upstream).map(|((field, _), id)| {
            let node = &self.nodes[*id as usize].node;
            (field.clone(), (node.kind, node.settings.clone()))
        });
        let settings = match kind.normalise(&raw.settings, &Upstream { stages: above.collect() }) {
            Ok(settings) => settings,
            Err(error) => {
                let (message, hint) = match error {
                    StageError::Invalid { message, hint } => (message, hint),
                    other => (other.to_string(), None),
                };
                let hint = hint.unwrap_or_else(|| format!("`soctok stages {}` lists its fields", kind.name));
                report.error(entry.name_span, format!("stage `{}`: {message}", entry.name), hint);
                return None;
            }
        };
        let mut inputs = LiteMap::new();
        let mut left = Vec::new();
        for (field, text) in kind.references(&settings) {
            let accepts = kind.accepts(&field).unwrap_or_default();
            let is_written = raw.settings.contains_key(&field) || field.contains('.');
            if !is_written && let Err(broken) = self.graph.follow(text, &accepts) {
                let (message, hint) = self.graph.tell(&broken, text, &accepts, &field);
                let message = format!("stage `{}` needs `{field}`, by default `{text}`: {message}", entry.name);
                report.error(entry.name_span, message, format!("set `{field}`, or: {hint}"));
                return None;
            }
            let known = raw.references.iter().position(|(name, _)| *name == field);
            if let Some(id) = known.and_then(|at| upstream.get(at)) {
                left.push((field.clone(), *id));
            }
            inputs.insert(field, Reference(text.to_owned()));
        }
        let text = serde_json::to_string(&settings).expect("settings are JSON");
        let identity = (stage, text, left.iter().map(|(_, id)| *id).collect());
        if let Some(same) = self.interned.get(&identity) {
            return Some(*same);
        }
        let id = self.nodes.len() as NodeId;
        self.nodes.push(Resolved {
            node: Arc::new(Node { kind: kind.name, settings: settings.into(), inputs }),
            stage,
            upstream: left,
            hits: Vec::new(),
        });
        let hits = RULES.iter().filter(|rule| rule.kind == kind.name && self.holds(rule, id)).collect();
        self.nodes[id as usize].hits = hits;
        self.interned.insert(identity, id);
        Some(id)
    }

    fn holds(&self, rule: &Rule, id: NodeId) -> bool {
        rule.conditions.iter().all(|condition| {
            let mut at = &self.nodes[id as usize];
            for field in condition.through {
                match at.upstream.iter().find(|(name, _)| name == field) {
                    Some((_, upstream)) => at = &self.nodes[*upstream as usize],
                    None => return false,
                }
            }
            let value = at.node.settings.get(condition.field).and_then(Value::as_str);
            value.is_some_and(|word| condition.is.contains(&word))
        })
    }

    /// The first rule by which a point does not exist. What no axis and no ablation chose is an error or a note.
    fn judge(&self, report: &mut Report, reached: &[NodeId], ablation: Option<usize>) -> Option<NotApplicable> {
        let mut verdict = None;
        for (id, rule) in
            reached.iter().flat_map(|id| self.nodes[*id as usize].hits.iter().map(move |rule| (*id, *rule)))
        {
            let chosen = self.is_chosen(rule, id, ablation);
            match rule.verdict {
                Verdict::NotApplicable if chosen => {
                    let found = NotApplicable { rule: rule.name.to_owned(), sentence: rule.sentence.to_owned() };
                    verdict = verdict.or(Some(found));
                }
                Verdict::NotApplicable => {
                    let (span, name) = self.place(rule, id);
                    let hint = "give another value; on an axis the cell would be left out as not applicable";
                    report.error(span, format!("stage `{name}`: {}", rule.sentence), hint);
                }
                Verdict::Unusual if !chosen => {
                    let (span, name) = self.place(rule, id);
                    report.note(span, format!("stage `{name}`: {}", rule.sentence), "keep it if it is what you want");
                }
                Verdict::Unusual => {}
            }
        }
        verdict
    }

    /// Whether an axis or the ablation sets a field of the rule, at the stage or anywhere upstream of it.
    fn is_chosen(&self, rule: &Rule, id: NodeId, ablation: Option<usize>) -> bool {
        let above = &self.above[self.nodes[id as usize].stage];
        let concerns = |target: &Target| {
            above.contains(&target.stage) && rule.conditions.iter().any(|condition| condition.field == target.field)
        };
        let ablated = ablation.iter().flat_map(|index| &self.sweep.ablations[*index].sets).map(|(target, _)| target);
        self.sweep.axes.iter().flat_map(|axis| &axis.binds).chain(ablated).any(concerns)
    }

    fn place(&self, rule: &Rule, id: NodeId) -> (Span, &str) {
        let entry = &self.graph.stages[self.nodes[id as usize].stage];
        let own = rule.conditions.iter().filter(|condition| condition.through.is_empty());
        let item = own.filter_map(|condition| entry.table.get(condition.field)).next();
        (item.map_or(entry.name_span, |item: &Item| item.span), entry.name)
    }
}

/// Sets a field, or the entry `field.NAME` of a table whose names the file chooses; two such tables are joined.
fn put(kind: Option<&Kind>, settings: &mut Settings, field: &str, value: Value) {
    if let Some((table, name)) = field.split_once('.') {
        let entries = settings.entry(table).or_insert_with(|| Value::Object(Settings::new()));
        if let Value::Object(entries) = entries {
            entries.insert(name.to_owned(), value);
        }
        return;
    }
    match (settings.get_mut(field), value) {
        (Some(Value::Object(below)), Value::Object(above)) if kind.is_some_and(|kind| kind.is_table(field)) => {
            below.extend(above);
        }
        (_, value) => {
            settings.insert(field.to_owned(), value);
        }
    }
}

fn too_many(report: &mut Report, sweep: &Sweep) {
    let axes: Vec<String> = sweep.axes.iter().map(|axis| format!("{} `{}`", axis.values.len(), axis.name)).collect();
    let message = format!("the axes make more than {MOST_POINTS} points: {}", axes.join(" × "));
    report.error_nowhere(message, "take an axis or values away, or split the experiment into several files");
}

/// Stage → the stages that it refers to: in the file, by default, on an axis or in an ablation.
fn references(graph: &Graph<'_>, sweep: &Sweep) -> Vec<BTreeSet<usize>> {
    let mut direct = vec![BTreeSet::new(); graph.stages.len()];
    for (index, stage) in graph.stages.iter().enumerate() {
        let written: Settings =
            stage.table.entries.iter().map(|entry| (entry.key.clone(), entry.item.plain())).collect();
        let references = stage.kind.iter().flat_map(|kind| kind.references(&written));
        direct[index].extend(references.filter_map(|(_, text)| graph.referred(text)));
    }
    for (target, item) in sweep.settings() {
        let kind = graph.stages[target.stage].kind;
        if kind.is_some_and(|kind| kind.is_reference(&target.field)) {
            let references = references_in(&target.field, item);
            let named = references.iter().filter_map(|(_, item)| graph.referred(item.text()?));
            direct[target.stage].extend(named);
        }
    }
    direct
}

fn above(direct: &[BTreeSet<usize>], stage: usize) -> BTreeSet<usize> {
    let mut found = BTreeSet::new();
    let mut open = vec![stage];
    while let Some(next) = open.pop() {
        if found.insert(next) {
            open.extend(&direct[next]);
        }
    }
    found
}
