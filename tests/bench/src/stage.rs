//! Two nodes of this process, one on each host of a laboratory, and guests that move between them: for
//! what several migrations, or their progress, show.

use crate::{Failure, guest};
use dwcp::migration::options::CodecChoice;
use dwcp::migration::{MigrationOptions, Phase, Report};
use dwcp::runtime::sys::MappedMemory;
use dwcp::{Migration, Node, NodeOptions, SecurityOptions};
use dwcp_netlab::{Host, Lab};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

/// The nodes, and the memory of the guests that leave.
pub struct Stage<'a> {
    lab: &'a Lab,
    /// Guests leave here.
    pub near: Node,
    far: Node,
    memories: Vec<Arc<MappedMemory>>,
}

impl<'a> Stage<'a> {
    /// Nodes without guests.
    pub fn new(lab: &'a Lab) -> Result<Self, Failure> {
        let start = |host: &Host, name: &str, listen| {
            let (name, security) = (name.into(), SecurityOptions::Plain);
            let options = NodeOptions { name, listen, security, ..NodeOptions::default() };
            host.enter(|| Node::start(options))
        };
        let near = start(lab.a(), "near", None)?;
        let far = start(lab.b(), "far", Some(SocketAddr::from((lab.b().ipv4(), 0))))?;
        Ok(Self { lab, near, far, memories: Vec::new() })
    }

    /// Starts to move so many guests, whose memory no codec makes smaller.
    pub fn migrate(
        &mut self,
        guests: usize,
        guest_bytes: u64,
        streams: u16,
    ) -> Result<Vec<Migration>, Failure> {
        let to = self.far.local_address().ok_or("the node does not listen")?.to_string();
        for number in self.memories.len()..guests {
            let memory = guest::untouched(guest_bytes)?;
            guest::fill_incompressible(&memory, guest_bytes, number as u64)?;
            self.memories.push(memory);
        }
        let mut migrations = Vec::new();
        for (number, memory) in self.memories.iter().enumerate() {
            let name = format!("guest{number}");
            let leaving = Arc::new(guest::running_guest(memory.clone(), 0));
            // Whoever waits for the end has the migration's report.
            let arriving = guest::arriving_guest(guest::untouched(guest_bytes)?, 0, channel().0);
            self.near.add_source(&name, leaving)?;
            self.far.add_destination(&name, Arc::new(arriving))?;
            let codec = CodecChoice::None.into();
            let options = MigrationOptions { codec, streams, ..MigrationOptions::default() };
            migrations.push(self.lab.a().enter(|| self.near.migrate(&name, &to, options))?);
        }
        Ok(migrations)
    }

    /// Bytes of a migration that have come to the other node.
    pub fn arrived_bytes(&self, migration: &Migration) -> Result<u64, Failure> {
        Ok(self.far.migration(migration.id())?.progress().wire_bytes)
    }

    /// What both nodes say of a migration that is left to end by itself.
    pub fn ends(&self, migration: &Migration) -> Result<(Report, Report), Failure> {
        let over = "the migration did not end";
        let here = migration.wait(Some(LONGEST)).ok_or(over)?;
        let there = self.far.migration(migration.id())?.wait(Some(LONGEST)).ok_or(over)?;
        Ok((here, there))
    }

    /// Ends migrations, and takes the guests away so that others can come.
    pub fn clear(&self, migrations: &[Migration]) -> Result<(), Failure> {
        migrations.iter().for_each(Migration::cancel);
        for (number, migration) in migrations.iter().enumerate() {
            migration.wait(Some(LONGEST)).ok_or("a cancelled migration did not end")?;
            let name = format!("guest{number}");
            self.near.remove_guest(&name)?;
            until("the guest is free", || self.far.remove_guest(&name).is_ok())?;
        }
        Ok(())
    }
}

impl Drop for Stage<'_> {
    fn drop(&mut self) {
        self.near.stop();
        self.far.stop();
    }
}

/// Bytes that each migration has sent.
pub fn sent_bytes(migrations: &[Migration]) -> Vec<u64> {
    migrations.iter().map(|migration| migration.progress().wire_bytes).collect()
}

/// Waits until every migration copies memory and has sent so much.
pub fn until_sent(migrations: &[Migration], bytes: u64) -> Result<(), Failure> {
    until("all migrations are under way", || {
        migrations.iter().all(|migration| {
            let progress = migration.progress();
            progress.phase == Phase::Precopy && progress.wire_bytes >= bytes
        })
    })
}

/// Waits until something holds.
pub fn until(what: &str, holds: impl Fn() -> bool) -> Result<(), Failure> {
    let start = Instant::now();
    while !holds() {
        if start.elapsed() > LONGEST {
            return Err(format!("{what}: not within {LONGEST:?}").into());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

const LONGEST: Duration = Duration::from_secs(60);
