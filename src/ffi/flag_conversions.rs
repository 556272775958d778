//! Between the C structs of [`super::flags`] and the engine's values.

use super::codes::*;
use super::flags::*;
use super::guard::Failure;
use super::strings::{self, fixed};
use super::structs::{self, SizedStruct};
use crate::Status;
use crate::base::limits::{
    MAX_AUDIT_LINE_BYTES, MAX_FLAG_LIST_NAMES, MAX_FLAG_MEMBERS, MAX_UNIT_BYTES,
};
use crate::rollout::{
    Change, ChangeAction, Decision, Flag, FlagSet, Percent, Reason, RuleEdit, Schedule, UnitKind,
};
use crate::runtime::rollout::{FlagView, RolloutError};
use std::ffi::{CStr, c_char};

/// Longest list of names in one text, commas included.
const MAX_LIST_BYTES: usize = MAX_FLAG_LIST_NAMES * (MAX_UNIT_BYTES + 1);
/// What a schedule is called instead of its stages.
const GUIDE: &str = "guide";
const NONE: &str = "none";

/// The flag of a `DWCP_FLAG_`.
pub fn flag_in(code: u32) -> Result<Flag, Failure> {
    let found = Flag::ALL.into_iter().find(|flag| flag_out(*flag) == code);
    found.ok_or_else(|| Failure::invalid(format!("flag {code} is no DWCP_FLAG_ value")))
}

/// The `DWCP_FLAG_` of a flag.
pub fn flag_out(flag: Flag) -> u32 {
    match flag {
        Flag::HybridMode => DWCP_FLAG_HYBRID_MODE,
        Flag::MlCompression => DWCP_FLAG_ML_COMPRESSION,
        Flag::CrdtSync => DWCP_FLAG_CRDT_SYNC,
        Flag::PbftConsensus => DWCP_FLAG_PBFT_CONSENSUS,
        Flag::InternetOptimization => DWCP_FLAG_INTERNET_OPTIMIZATION,
    }
}

/// The name of a `DWCP_FLAG_`.
pub fn name_with_nul(code: u32) -> &'static CStr {
    match code {
        DWCP_FLAG_HYBRID_MODE => c"hybrid_mode",
        DWCP_FLAG_ML_COMPRESSION => c"ml_compression",
        DWCP_FLAG_CRDT_SYNC => c"crdt_sync",
        DWCP_FLAG_PBFT_CONSENSUS => c"pbft_consensus",
        DWCP_FLAG_INTERNET_OPTIMIZATION => c"internet_optimization",
        _ => c"unknown",
    }
}

/// A flag as C sees it.
pub fn state_out(flag: Flag, view: &FlagView) -> dwcp_flag_state {
    let rule = &view.rule;
    let bits = [
        (DWCP_FLAG_STATE_ENABLED, rule.enabled),
        (DWCP_FLAG_STATE_BUILT, view.is_built),
        (DWCP_FLAG_STATE_IN_FORCE, view.is_in_force),
        (DWCP_FLAG_STATE_ROLLED_BACK, view.latch.is_some()),
        (DWCP_FLAG_STATE_KILLED, view.killed.is_some()),
        (DWCP_FLAG_STATE_SCHEDULED, rule.schedule.is_some()),
    ];
    dwcp_flag_state {
        struct_size: size_of::<dwcp_flag_state>(),
        flag: flag_out(flag),
        unit: unit_out(flag.unit_kind()),
        bits: bits.iter().filter(|(_, is_so)| *is_so).map(|(bit, _)| bit).sum(),
        rollout_ppm: rule.rollout_percent.parts(),
        allow_count: rule.allow_list.len() as u32,
        deny_count: rule.deny_list.len() as u32,
        prerequisites: rule.prerequisites.iter().fold(0, |bits, flag| bits | 1 << flag_out(*flag)),
        padding: 0,
        seed: rule.seed,
        expires_s: rule.expires_s.unwrap_or(0),
        rolled_back_us: view.latch.as_ref().map_or(0, |latch| latch.since_us),
        owner: fixed(&rule.owner),
        rollback_reason: fixed(view.latch.as_ref().map_or("", |latch| &latch.reason)),
        kill_reason: fixed(view.killed.as_deref().unwrap_or_default()),
        reserved: [0; 8],
    }
}

/// A decision as C sees it.
pub fn decision_out(decision: &Decision) -> dwcp_flag_decision {
    let mut out = dwcp_flag_decision {
        struct_size: size_of::<dwcp_flag_decision>(),
        is_on: decision.is_on.into(),
        reason: reason_out(decision.reason),
        bucket: 0,
        rollout_ppm: 0,
        prerequisite: 0,
        chosen: 0,
        members: 0,
        padding: 0,
        text: fixed(&decision.reason.to_string()),
        reserved: [0; 8],
    };
    match decision.reason {
        Reason::Percentage { bucket, percent } | Reason::BelowPercentage { bucket, percent } => {
            (out.bucket, out.rollout_ppm) = (bucket, percent.parts());
        }
        Reason::Ranked { chosen, members } | Reason::NotRanked { chosen, members } => {
            (out.chosen, out.members) = (chosen, members);
        }
        Reason::PrerequisiteUnmet { flag } => out.prerequisite = flag_out(flag),
        _ => {}
    }
    out
}

/// Who changes something: the text, or this process for NULL.
///
/// # Safety
/// As for [`strings::optional_text_in`].
pub unsafe fn who_in(who: *const c_char) -> Result<String, Failure> {
    // SAFETY: the caller vouches for who.
    let who = unsafe { strings::optional_text_in("who", who)? };
    Ok(who.unwrap_or_else(|| format!("process {}", std::process::id())))
}

/// A change of some flags.
///
/// # Safety
/// `changes` is NULL or holds `count` elements of the struct_size that the first one says; texts as for
/// [`strings::text_in`].
pub unsafe fn change_in(
    changes: *const dwcp_flag_change,
    count: usize,
    who: *const c_char,
    why: *const c_char,
) -> Result<Change, Failure> {
    if changes.is_null() {
        return Err(Failure::null("changes"));
    }
    if count == 0 || count > Flag::ALL.len() {
        let text = format!("count is {count}; it must be 1 to {}", Flag::ALL.len());
        return Err(Failure::invalid(text));
    }
    let mut edits: Vec<(Flag, RuleEdit)> = Vec::with_capacity(count);
    // SAFETY: with a count above 0 the caller vouches for the first element.
    let size = unsafe { structs::size_of_caller(changes)? };
    for index in 0..count {
        // SAFETY: the caller vouches for `count` elements of this size, and for their texts.
        let (flag, edit) = unsafe { edit_in(index, size, changes.byte_add(index * size))? };
        if edits.iter().any(|(known, _)| *known == flag) {
            return Err(Failure::invalid(format!("changes[{index}]: {flag} is there twice")));
        }
        edits.push((flag, edit));
    }
    // SAFETY: the caller vouches for the texts.
    let (who, why) = unsafe { (who_in(who)?, strings::text_in("why", why)?) };
    Ok(Change { who, why, evidence: None, action: ChangeAction::Edit(edits) })
}

/// Names of nodes.
///
/// # Safety
/// `members` is NULL or holds `count` texts as for [`strings::text_in`].
pub unsafe fn members_in(
    members: *const *const c_char,
    count: usize,
) -> Result<Vec<String>, Failure> {
    if count > MAX_FLAG_MEMBERS {
        let text = format!("{count} members are more than {MAX_FLAG_MEMBERS}");
        return Err(Failure::new(Status::LimitReached, text));
    }
    if members.is_null() && count > 0 {
        return Err(Failure::null("members"));
    }
    let read = |index| {
        // SAFETY: index is below count, and the caller vouches for as many texts.
        unsafe {
            let member = members.add(index).read_unaligned();
            strings::text_in(&format!("members[{index}]"), member)
        }
    };
    (0..count).map(read).collect()
}

/// Flags that need not be in force.
///
/// # Safety
/// As for [`strings::text_in`].
pub unsafe fn planned_in(flags_json: *const c_char) -> Result<FlagSet, Failure> {
    // SAFETY: the caller vouches for the text.
    let text = unsafe { strings::limited_text_in("flags_json", flags_json, MAX_AUDIT_LINE_BYTES)? };
    let text = text.ok_or_else(|| Failure::null("flags_json"))?;
    let set: FlagSet = serde_json::from_str(&text)
        .map_err(|error| Failure::invalid(format!("flags_json: {error}")))?;
    set.check().map_err(|error| Failure::invalid(error.to_string()))?;
    Ok(set)
}

/// # Safety
/// `pointer` holds an element of `size` bytes, and its texts are as for [`strings::text_in`].
unsafe fn edit_in(
    index: usize,
    size: usize,
    pointer: *const dwcp_flag_change,
) -> Result<(Flag, RuleEdit), Failure> {
    // SAFETY: the caller vouches for the element.
    let change = unsafe { structs::read(pointer)? };
    if change.struct_size != size {
        let text =
            format!("changes[{index}].struct_size is {}, changes[0]'s {size}", change.struct_size);
        return Err(Failure::new(Status::BadStructSize, text));
    }
    let flag = flag_in(change.flag)?;
    let known = DWCP_FLAG_CHANGE_ENABLED
        | DWCP_FLAG_CHANGE_ROLLOUT
        | DWCP_FLAG_CHANGE_SEED
        | DWCP_FLAG_CHANGE_EXPIRES;
    if change.fields & !known != 0 {
        let text = format!("fields {:#x} holds unknown DWCP_FLAG_CHANGE_ bits", change.fields);
        return Err(Failure::invalid(text));
    }
    let is_set = |bit: u32| change.fields & bit != 0;
    // SAFETY: the caller vouches for the texts.
    let (allow_list, deny_list, prerequisites, schedule, owner) = unsafe {
        (
            names_in("allow_list", change.allow_list)?,
            names_in("deny_list", change.deny_list)?,
            names_in("prerequisites", change.prerequisites)?,
            plan_in(flag, change.schedule)?,
            strings::optional_text_in("owner", change.owner)?,
        )
    };
    let edit = RuleEdit {
        enabled: is_set(DWCP_FLAG_CHANGE_ENABLED).then(|| truth_in(change.enabled)).transpose()?,
        rollout_percent: is_set(DWCP_FLAG_CHANGE_ROLLOUT)
            .then(|| percent_in(change.rollout_ppm))
            .transpose()?,
        allow_list,
        deny_list,
        seed: is_set(DWCP_FLAG_CHANGE_SEED).then_some(change.seed),
        prerequisites: prerequisites.map(flags_in).transpose()?,
        schedule,
        owner,
        expires_s: is_set(DWCP_FLAG_CHANGE_EXPIRES)
            .then_some(Some(change.expires_s).filter(|seconds| *seconds != 0)),
    };
    Ok((flag, edit))
}

fn truth_in(number: u32) -> Result<bool, Failure> {
    match number {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(Failure::invalid(format!("enabled is {number}; it must be 0 or 1"))),
    }
}

/// A percentage in parts of a million.
pub fn percent_in(rollout_ppm: u32) -> Result<Percent, Failure> {
    Percent::from_parts(rollout_ppm).map_err(|_| {
        let most = Percent::PARTS;
        Failure::invalid(format!("rollout_ppm is {rollout_ppm}; it must be 0 to {most}"))
    })
}

/// # Safety
/// As for [`strings::limited_text_in`].
unsafe fn names_in(what: &str, text: *const c_char) -> Result<Option<Vec<String>>, Failure> {
    // SAFETY: the caller vouches for the text.
    let text = unsafe { strings::limited_text_in(what, text, MAX_LIST_BYTES)? };
    let names = |text: String| match text.trim().is_empty() {
        true => Vec::new(),
        false => text.split(',').map(|name| name.trim().to_owned()).collect(),
    };
    Ok(text.map(names))
}

fn flags_in(names: Vec<String>) -> Result<Vec<Flag>, Failure> {
    names.iter().map(|name| name.parse().map_err(rollout_failure)).collect()
}

fn rollout_failure(error: impl Into<RolloutError>) -> Failure {
    error.into().into()
}

/// A schedule as `dwcp_flag_change` has it; the inner one is none where it is taken away.
///
/// # Safety
/// As for [`strings::text_in`].
pub unsafe fn plan_in(
    flag: Flag,
    schedule: *const c_char,
) -> Result<Option<Option<Schedule>>, Failure> {
    // SAFETY: the caller vouches for the text.
    let text = unsafe { strings::limited_text_in("schedule", schedule, MAX_LIST_BYTES)? };
    text.map(|text| schedule_in(flag, &text)).transpose()
}

fn schedule_in(flag: Flag, text: &str) -> Result<Option<Schedule>, Failure> {
    match text {
        NONE => Ok(None),
        GUIDE => Ok(Some(Schedule::guide(flag))),
        stages => serde_json::from_str(stages)
            .map(Some)
            .map_err(|error| Failure::invalid(format!("schedule: {error}"))),
    }
}

fn unit_out(kind: UnitKind) -> u32 {
    match kind {
        UnitKind::NodePair => DWCP_UNIT_NODE_PAIR,
        UnitKind::Link => DWCP_UNIT_LINK,
        UnitKind::Path => DWCP_UNIT_PATH,
        UnitKind::ReplicaGroup => DWCP_UNIT_REPLICA_GROUP,
        UnitKind::Cluster => DWCP_UNIT_CLUSTER,
    }
}

fn reason_out(reason: Reason) -> u32 {
    match reason {
        Reason::KillSwitch => DWCP_REASON_KILL_SWITCH,
        Reason::NotEnabled => DWCP_REASON_NOT_ENABLED,
        Reason::Expired { .. } => DWCP_REASON_EXPIRED,
        Reason::NotBuilt => DWCP_REASON_NOT_BUILT,
        Reason::Denied => DWCP_REASON_DENIED,
        Reason::PeerCannot => DWCP_REASON_PEER_CANNOT,
        Reason::PrerequisiteUnmet { .. } => DWCP_REASON_PREREQUISITE_UNMET,
        Reason::LatchedOff => DWCP_REASON_ROLLED_BACK,
        Reason::Allowed => DWCP_REASON_ALLOWED,
        Reason::Percentage { .. } => DWCP_REASON_PERCENTAGE,
        Reason::BelowPercentage { .. } => DWCP_REASON_BELOW_PERCENTAGE,
        Reason::Ranked { .. } => DWCP_REASON_RANKED,
        Reason::NotRanked { .. } => DWCP_REASON_NOT_RANKED,
    }
}

impl From<RolloutError> for Failure {
    fn from(error: RolloutError) -> Self {
        Self::new(error.status(), error.to_string())
    }
}

macro_rules! sized_struct {
    ($($name:ident, $($padding:ident)?;)+) => {$(
        // SAFETY: integers, pointers and byte arrays of whole words; the layout golden file shows no gap.
        unsafe impl SizedStruct for $name {
            const NAME: &'static str = stringify!($name);
            const FIRST_SIZE: usize = size_of::<Self>();

            fn reserved_is_zero(&self) -> bool {
                $(self.$padding == 0 &&)? self.reserved == [0; 8]
            }
        }
    )+};
}

sized_struct! {
    dwcp_flag_state, padding;
    dwcp_flag_change, ;
    dwcp_flag_decision, padding;
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::CString;
    use std::ptr;

    fn zero() -> dwcp_flag_change {
        // SAFETY: integers, and pointers that may be NULL.
        let zero: dwcp_flag_change = unsafe { std::mem::zeroed() };
        let struct_size = size_of::<dwcp_flag_change>();
        dwcp_flag_change { struct_size, flag: DWCP_FLAG_HYBRID_MODE, ..zero }
    }

    fn read(changes: &[dwcp_flag_change]) -> Result<Change, String> {
        // SAFETY: whole structs of ours, with texts that outlive the call.
        let read =
            unsafe { change_in(changes.as_ptr(), changes.len(), ptr::null(), c"x".as_ptr()) };
        read.map_err(|failure| failure.text)
    }

    fn edit_of(change: dwcp_flag_change) -> RuleEdit {
        match read(&[change]).unwrap().action {
            ChangeAction::Edit(edits) => edits[0].1.clone(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn every_flag_has_its_number_and_its_name() {
        for flag in Flag::ALL {
            let code = flag_out(flag);
            assert_eq!(flag_in(code), Ok(flag));
            assert_eq!(name_with_nul(code).to_str(), Ok(flag.name()));
        }
        assert_eq!(flag_in(0).unwrap_err().text, "flag 0 is no DWCP_FLAG_ value");
        assert_eq!(name_with_nul(6), c"unknown");
    }

    #[test]
    fn what_is_set_arrives_and_nothing_else() {
        assert!(edit_of(zero()).is_empty());
        let numbers = dwcp_flag_change { fields: 15, rollout_ppm: 125_000, seed: 7, ..zero() };
        let expected = RuleEdit {
            enabled: Some(false),
            rollout_percent: Some("12.5".parse().unwrap()),
            seed: Some(7),
            expires_s: Some(None),
            ..RuleEdit::default()
        };
        assert_eq!(edit_of(numbers), expected);
        let texts = dwcp_flag_change {
            allow_list: c"a, b|c".as_ptr(),
            deny_list: c"".as_ptr(),
            prerequisites: c"crdt_sync,ml_compression".as_ptr(),
            schedule: c"[{\"after_s\":1,\"percent\":10}]".as_ptr(),
            owner: c"net".as_ptr(),
            ..zero()
        };
        let edit = edit_of(texts);
        assert_eq!(edit.allow_list, Some(vec!["a".to_owned(), "b|c".to_owned()]));
        assert_eq!(edit.deny_list, Some(Vec::new()));
        assert_eq!(edit.prerequisites, Some(vec![Flag::CrdtSync, Flag::MlCompression]));
        assert_eq!(edit.schedule.flatten().unwrap().stages().len(), 1);
        assert_eq!((edit.owner.as_deref(), edit.enabled), (Some("net"), None));
        let schedule =
            |text: &CStr| edit_of(dwcp_flag_change { schedule: text.as_ptr(), ..zero() }).schedule;
        assert_eq!(schedule(c"none"), Some(None));
        assert_eq!(schedule(c"guide"), Some(Some(Schedule::guide(Flag::HybridMode))));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let long = CString::new("x".repeat(MAX_LIST_BYTES + 1)).unwrap();
        let cases = [
            (dwcp_flag_change { flag: 6, ..zero() }, "flag 6"),
            (dwcp_flag_change { fields: 16, ..zero() }, "fields 0x10"),
            (dwcp_flag_change { fields: 1, enabled: 2, ..zero() }, "enabled is 2"),
            (dwcp_flag_change { fields: 2, rollout_ppm: 1_000_001, ..zero() }, "1000001"),
            (dwcp_flag_change { prerequisites: c"hybrid".as_ptr(), ..zero() }, "hybrid_mode"),
            (dwcp_flag_change { schedule: c"[]".as_ptr(), ..zero() }, "schedule: "),
            (dwcp_flag_change { allow_list: long.as_ptr(), ..zero() }, "allow_list is longer"),
            (dwcp_flag_change { reserved: [1; 8], ..zero() }, "reserved"),
        ];
        for (change, text) in cases {
            let error = read(&[change]).unwrap_err();
            assert!(error.contains(text), "{error}");
        }
        assert!(read(&[zero(), zero()]).unwrap_err().contains("hybrid_mode is there twice"));
        assert!(read(&[]).unwrap_err().contains("count is 0"));
        assert!(read(&[zero(); 6]).unwrap_err().contains("count is 6"));
    }

    #[test]
    fn a_decision_keeps_what_its_reason_tells() {
        let percent = Percent::whole(10);
        let out = |reason: Reason| decision_out(&reason.into());
        let below = out(Reason::BelowPercentage { bucket: 5, percent });
        assert_eq!((below.is_on, below.bucket, below.rollout_ppm), (0, 5, 100_000));
        let ranked = out(Reason::Ranked { chosen: 2, members: 20 });
        assert_eq!((ranked.is_on, ranked.chosen, ranked.members), (1, 2, 20));
        let unmet = out(Reason::PrerequisiteUnmet { flag: Flag::MlCompression });
        assert_eq!(unmet.prerequisite, DWCP_FLAG_ML_COMPRESSION);
        assert_ne!(unmet.text[0], 0);
    }
}
