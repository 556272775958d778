//! What connections need before they are trusted: an identity that can be used, and for a while yet.

use super::{Check, Component, Settings};
use crate::runtime::security::identity::{IdentityError, Shown, show};
use crate::runtime::security::{CertificateFacts, EXPIRY_NOTICE_DAYS, Identity, SecurityOptions};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

pub fn check(settings: &Settings) -> Vec<Check> {
    let now_s = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    match &settings.security {
        SecurityOptions::Undecided => vec![connections("none: there is no identity").warning(
            "nothing can be migrated: make an identity by `dwcp-v3-cli identity init` and `identity \
             issue`",
        )],
        SecurityOptions::Plain => vec![connections("plain TCP").warning(
            "whoever is on the network can read and change guests: use an identity, and \
             security.transport tls",
        )],
        SecurityOptions::Tls { identity_dir, .. } => {
            let opened = open(identity_dir);
            let trusted = opened.as_ref().map_or(&[][..], |shown| &shown.trusted).to_vec();
            let facts = opened.map(|shown| shown.node);
            let mut checks = vec![connections("TLS"), identity(identity_dir, &facts, now_s)];
            checks.extend(trusted.first().map(|newest| authority(newest, now_s)));
            checks
        }
    }
}

fn connections(found: &str) -> Check {
    Check::ok(Component::Security, "connections", found)
}

/// The identity as a node would use it when it starts, or takes it up anew.
fn open(directory: &Path) -> Result<Shown, IdentityError> {
    Identity::load(directory)?;
    show(directory)
}

fn identity(
    directory: &Path,
    facts: &Result<Option<CertificateFacts>, IdentityError>,
    now_s: u64,
) -> Check {
    let check = |found: String| Check::ok(Component::Security, "identity", found);
    match facts {
        Err(error) => check(error.to_string())
            .failed("a node does not start with it: issue one by `dwcp-v3-cli identity issue`"),
        Ok(None) => check(format!("{} holds none", directory.display()))
            .failed("issue one by `dwcp-v3-cli identity issue`"),
        Ok(Some(facts)) => lasting(
            check,
            format!("{}, dialed as {}", directory.display(), facts.hosts.join(", ")),
            facts,
            now_s,
            "dwcp-v3-cli identity rotate, then SIGHUP to dwcpd",
        ),
    }
}

fn authority(facts: &CertificateFacts, now_s: u64) -> Check {
    let check = |found: String| Check::ok(Component::Security, "authority", found);
    let advice = "dwcp-v3-cli identity rotate --of-authority NAME, and its ca.pem to every node";
    lasting(check, facts.subject.clone(), facts, now_s, advice)
}

/// Peers refuse a certificate before its time and after it.
fn lasting(
    check: impl Fn(String) -> Check,
    found: String,
    facts: &CertificateFacts,
    now_s: u64,
    advice: &str,
) -> Check {
    let days = facts.days_left(now_s);
    if facts.not_before_s > now_s.try_into().unwrap_or(i64::MAX) {
        let advice = "set this host's clock, or issue it anew by `dwcp-v3-cli identity`";
        return check(format!("{found}; not valid yet")).failed(advice);
    }
    let check = check(format!("{found}; {days} days left"));
    match days {
        _ if days < 0 => check.failed(advice),
        _ if days < EXPIRY_NOTICE_DAYS => check.warning(advice),
        _ => check,
    }
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;
    use crate::runtime::security::authority::{self, NodeCertificate};
    use std::fs;
    use std::path::PathBuf;

    fn scratch(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("dwcp-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        path
    }

    fn checks(directory: &Path) -> Vec<(&'static str, Verdict)> {
        let identity_dir = directory.to_owned();
        let security = SecurityOptions::Tls { identity_dir, allowed_peers: vec![] };
        let checks = check(&Settings { security, ..Settings::default() });
        checks.into_iter().map(|check| (check.what, check.verdict)).collect()
    }

    #[test]
    fn an_identity_is_read_as_a_node_reads_it() {
        let fleet = scratch("resource-identity");
        let issue = |node: &str, days| {
            let into = fleet.join(node);
            let wanted = NodeCertificate { node: node.to_owned(), hosts: vec![], days };
            authority::issue(&fleet, &wanted, &into, false).unwrap();
            into
        };
        authority::create(&fleet, "fleet").unwrap();
        let (ok, connections) = (("identity", Verdict::Ok), ("connections", Verdict::Ok));
        let authority = ("authority", Verdict::Ok);
        assert_eq!(checks(&issue("good", 365)), [connections, ok, authority]);
        let soon = ("identity", Verdict::Warning);
        assert_eq!(
            checks(&issue("soon", EXPIRY_NOTICE_DAYS as u64 - 1)),
            [connections, soon, authority]
        );
        assert_eq!(checks(&fleet.join("none")), [connections, ("identity", Verdict::Failed)]);
        fs::remove_dir_all(&fleet).unwrap();
    }

    #[test]
    fn a_certificate_is_judged_by_the_days_that_it_has_left() {
        let day = 86_400;
        let facts = CertificateFacts {
            node: Some("a".to_owned()),
            hosts: vec!["10.0.0.1".to_owned()],
            subject: "CN=a".to_owned(),
            issuer: "CN=fleet".to_owned(),
            fingerprint: String::new(),
            not_before_s: 100 * day,
            not_after_s: 200 * day,
        };
        let judge = |now_day: i64| authority(&facts, (now_day * day) as u64).verdict;
        assert_eq!(judge(99), Verdict::Failed);
        assert_eq!(judge(100), Verdict::Ok);
        assert_eq!(judge(200 - EXPIRY_NOTICE_DAYS), Verdict::Ok);
        assert_eq!(judge(201 - EXPIRY_NOTICE_DAYS), Verdict::Warning);
        assert_eq!(judge(202), Verdict::Failed);
    }

    #[test]
    fn plain_and_undecided_nodes_are_told_so() {
        for security in [SecurityOptions::Undecided, SecurityOptions::Plain] {
            let checks = check(&Settings { security, ..Settings::default() });
            assert_eq!((checks.len(), checks[0].verdict), (1, Verdict::Warning));
        }
    }
}
