//! Rules between fields, also of different stages, as data: which combinations do not exist and which are unusual.
//!
//! They are judged on the normalised stages of a whole point, so an inherited `inject` counts as much as a written one.

/// What it means when all conditions of a rule hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The cell does not exist: from an axis or an ablation the point is not applicable, as a single setting an error.
    NotApplicable,
    /// Allowed, but seldom meant; said when it is a single setting.
    Unusual,
}

impl Verdict {
    /// For people.
    pub fn word(self) -> &'static str {
        match self {
            Verdict::NotApplicable => "not applicable",
            Verdict::Unusual => "unusual",
        }
    }
}

/// A field has one of some words.
#[derive(Clone, Copy, Debug)]
pub struct Condition {
    /// The references that lead from the stage to the one meant; empty: the stage itself.
    pub through: &'static [&'static str],
    /// The field there.
    pub field: &'static str,
    /// The words.
    pub is: &'static [&'static str],
}

/// All conditions together mean the verdict.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    /// Its name.
    pub name: &'static str,
    /// Why, in a sentence.
    pub sentence: &'static str,
    /// What it means.
    pub verdict: Verdict,
    /// The stage kind that it is about.
    pub kind: &'static str,
    /// All must hold.
    pub conditions: &'static [Condition],
}

impl Rule {
    /// Whether it reads this field of its kind (not of a stage upstream).
    pub fn reads(&self, kind: &str, field: &str) -> bool {
        self.kind == kind && self.conditions.iter().any(|c| c.through.is_empty() && c.field == field)
    }
}

const fn pool(is: &'static [&'static str]) -> Condition {
    Condition { through: &[], field: "pool", is }
}

const fn inject(is: &'static [&'static str]) -> Condition {
    Condition { through: &["embeddings"], field: "inject", is }
}

/// Every rule.
pub const RULES: &[Rule] = &[
    Rule {
        name: "lora_beside_none",
        sentence: "with `inject = \"none\"` no projector is trained that `train_lora` could be a control of",
        verdict: Verdict::NotApplicable,
        kind: "train_lora",
        conditions: &[Condition { through: &["projector"], field: "inject", is: &["none"] }],
    },
    Rule {
        name: "none_only_soc",
        sentence: "with `inject = \"none\"` there are no social tokens to pool over",
        verdict: Verdict::NotApplicable,
        kind: "rsa",
        conditions: &[pool(&["only_soc"]), inject(&["none"])],
    },
    Rule {
        name: "none_locals_only",
        sentence: "with `inject = \"none\"` there are no local social tokens to pool over",
        verdict: Verdict::NotApplicable,
        kind: "rsa",
        conditions: &[pool(&["locals_only"]), inject(&["none"])],
    },
    Rule {
        name: "global_locals_only",
        sentence: "with `inject = \"global\"` there are no local social tokens to pool over",
        verdict: Verdict::NotApplicable,
        kind: "rsa",
        conditions: &[pool(&["locals_only"]), inject(&["global"])],
    },
    Rule {
        name: "local_without_locals_only",
        sentence: "`inject = \"local\"` is meant to be read with `pool = \"locals_only\"`",
        verdict: Verdict::Unusual,
        kind: "rsa",
        conditions: &[pool(&["all", "exclude_soc", "only_soc", "eos"]), inject(&["local"])],
    },
    Rule {
        name: "odd_one_out_none_only_soc",
        sentence: "with `inject = \"none\"` there are no social tokens to pool over",
        verdict: Verdict::NotApplicable,
        kind: "odd_one_out",
        conditions: &[pool(&["only_soc"]), inject(&["none"])],
    },
    Rule {
        name: "odd_one_out_none_locals_only",
        sentence: "with `inject = \"none\"` there are no local social tokens to pool over",
        verdict: Verdict::NotApplicable,
        kind: "odd_one_out",
        conditions: &[pool(&["locals_only"]), inject(&["none"])],
    },
    Rule {
        name: "odd_one_out_global_locals_only",
        sentence: "with `inject = \"global\"` there are no local social tokens to pool over",
        verdict: Verdict::NotApplicable,
        kind: "odd_one_out",
        conditions: &[pool(&["locals_only"]), inject(&["global"])],
    },
];
