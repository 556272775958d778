//! A guest of libvirt's that the library carries: two libvirtds, each in namespaces of its own, as
//! docs/qemu.md has it. Skipped where libvirt is not installed.

use dwcp::migration::{MigrationOptions, Owner};
use dwcp::{Node, NodeOptions, SecurityOptions, Status};
use dwcp_qemulab::{Image, Load, SerialLog, VmConfig, kernel_command_line};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

type Outcome = Result<(), Box<dyn std::error::Error>>;

const PATIENCE: Duration = Duration::from_secs(90);
const POLL: Duration = Duration::from_millis(50);
const NAME: &str = "vm1";

/// What libvirtd takes for its host, in mount, host name and process namespaces of its own. The
/// folder is shared with the node, which has to find the sockets at the paths that QEMU knows.
const HOST: &str = r#"
set -e
hostname "host-$1"
for folder in /var/lib/libvirt /run /var/cache /var/log; do
    mkdir -p "$folder"
    mount -t tmpfs none "$folder"
done
mkdir -p /var/lib/libvirt/qemu /run/libvirt/qemu /var/cache/libvirt/qemu /var/log/libvirt/qemu
mount -t tmpfs none /etc/libvirt
mkdir -p /etc/libvirt/qemu
cat > /etc/libvirt/libvirtd.conf <<END
host_uuid = "$2"
unix_sock_dir = "$3"
auth_unix_rw = "none"
auth_unix_ro = "none"
log_outputs = "3:file:$3/libvirtd.log"
END
cat > /etc/libvirt/qemu.conf <<END
user = "root"
group = "root"
security_driver = "none"
cgroup_controllers = []
namespaces = []
stdio_handler = "file"
END
# The first process here is who reaps: libvirt waits until a QEMU is gone altogether.
libvirtd &
wait $!
"#;

/// One host; its guests end with it.
struct Libvirt {
    child: Child,
    folder: PathBuf,
}

impl Libvirt {
    fn start(name: &str, uuid: &str) -> Result<Self, Box<dyn std::error::Error>> {
        let folder =
            std::env::temp_dir().join(format!("dwcp-libvirt-{}-{name}", std::process::id()));
        fs::create_dir_all(&folder)?;
        // Neither outlives this thread, however it ends.
        let bounds = ["--pdeathsig", "KILL", "unshare", "--kill-child=KILL", "--fork"];
        let apart = ["--mount", "--uts", "--pid", "--mount-proc", "--propagation", "private"];
        let log = fs::File::create(folder.join("start.log"))?;
        let child = Command::new("setpriv")
            .args(bounds)
            .args(apart)
            .args(["sh", "-c", HOST, "sh", name, uuid])
            .arg(&folder)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        let host = Self { child, folder };
        host.wait_until("libvirtd answers", || host.virsh(&["version"]).ok().map(drop))?;
        Ok(host)
    }

    fn virsh(&self, args: &[&str]) -> Result<String, Box<dyn std::error::Error>> {
        let socket = self.folder.join("libvirt-sock");
        let uri = format!("qemu+unix:///system?socket={}", socket.display());
        let output = Command::new("virsh").args(["-q", "-c", &uri]).args(args).output()?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(format!("virsh {args:?}: {said}").into());
        }
        Ok(String::from_utf8(output.stdout)?.trim().to_owned())
    }

    /// Creates the guest; `more` goes to its QEMU.
    fn create(&self, image: &Image, options: &[&str], more: &[&str]) -> Outcome {
        let path = self.folder.join("vm.xml");
        fs::write(&path, self.domain(image, more))?;
        let path = path.display().to_string();
        self.virsh(&[&["create"], options, &[&path]].concat()).map(drop)
    }

    fn domain(&self, image: &Image, more: &[&str]) -> String {
        let load = Load::Text { mib: 32, rate_mib: 4 };
        let command_line = kernel_command_line(&VmConfig { load, ..VmConfig::default() });
        let (kernel, initrd) = (image.kernel.display(), image.initramfs.display());
        let serial = self.serial().path().display().to_string();
        let qmp = format!("unix:{},server=on,wait=off", self.qmp().display());
        let args = [&["-qmp", &qmp], more].concat();
        let args: String = args.iter().map(|arg| format!("<qemu:arg value='{arg}'/>")).collect();
        format!(
            "<domain type='qemu' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
               <name>{NAME}</name><uuid>6f3ad2a4-1a3c-4b6e-9c55-0d6a3d1f0c11</uuid>
               <memory unit='MiB'>128</memory><vcpu>1</vcpu>
               <os><type arch='x86_64' machine='pc'>hvm</type><kernel>{kernel}</kernel>
                 <initrd>{initrd}</initrd><cmdline>{command_line}</cmdline></os>
               <features><acpi/></features>
               <devices>
                 <controller type='usb' model='none'/><memballoon model='none'/>
                 <serial type='file'><source path='{serial}'/><target port='0'/></serial>
               </devices>
               <qemu:commandline>{args}</qemu:commandline>
             </domain>"
        )
    }

    fn qmp(&self) -> PathBuf {
        self.folder.join("vm1.qmp")
    }

    fn serial(&self) -> SerialLog {
        SerialLog::new(self.folder.join("serial.log"))
    }

    fn wait_for_tick(&self, count: u64) -> Outcome {
        let what = format!("tick {count}");
        self.wait_until(&what, || (self.serial().last_tick() >= count).then_some(()))
    }

    fn wait_until(&self, what: &str, mut look: impl FnMut() -> Option<()>) -> Outcome {
        let deadline = Instant::now() + PATIENCE;
        while look().is_none() {
            if Instant::now() > deadline {
                let log = |name| fs::read_to_string(self.folder.join(name)).unwrap_or_default();
                let (start, daemon, guest) =
                    (log("start.log"), log("libvirtd.log"), self.serial().text());
                return Err(format!("{what}: no\n{start}\n{daemon}\n{guest}").into());
            }
            std::thread::sleep(POLL);
        }
        Ok(())
    }
}

impl Drop for Libvirt {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Why this machine cannot run the test, if so.
fn lacks() -> Option<&'static str> {
    let has = |path: &str| Path::new(path).exists();
    let own = fs::metadata("/proc/self").map(|it| std::os::unix::fs::MetadataExt::uid(&it));
    match own {
        Ok(0) if !has("/usr/sbin/libvirtd") => Some("libvirt-daemon-system is not installed"),
        Ok(0) if !has("/usr/bin/virsh") => Some("libvirt-clients is not installed"),
        Ok(0) => None,
        _ => Some("namespaces for libvirtd need root"),
    }
}

fn node(name: &str) -> Result<Node, Box<dyn std::error::Error>> {
    let listen = Some("127.0.0.1:0".parse()?);
    Ok(Node::start(NodeOptions {
        name: name.into(),
        listen,
        security: SecurityOptions::Plain,
        ..NodeOptions::default()
    })?)
}

/// Stopped before it moves, as in the other tests: libvirt gives guests whole megabytes of memory, of
/// which QEMU 7.2 under TCG loses what is written during a migration.
#[test]
fn a_guest_of_libvirts_moves_and_is_libvirts_there() -> Outcome {
    if let Some(reason) = lacks() {
        eprintln!("skipped: {reason}");
        return Ok(());
    }
    let image = Image::cached()?;
    let a = Libvirt::start("a", "5f0c2a5e-0000-4000-8000-00000000000a")?;
    let b = Libvirt::start("b", "5f0c2a5e-0000-4000-8000-00000000000b")?;
    a.create(&image, &[], &[])?;
    a.wait_for_tick(2)?;
    b.create(&image, &["--paused"], &["-incoming", "defer"])?;
    let (here, there) = (node("a")?, node("b")?);
    here.attach_qemu(NAME, &a.qmp(), false)?;
    there.attach_qemu(NAME, &b.qmp(), true)?;
    a.virsh(&["suspend", NAME])?;
    let address = there.local_address().ok_or("no address")?.to_string();
    let migration = here.migrate(NAME, &address, MigrationOptions::default())?;
    let report = migration.wait(Some(PATIENCE)).ok_or("the migration did not end")?;
    assert_eq!(
        (report.status, &*report.reason, report.owner),
        (Status::Ok, "", Owner::Destination)
    );
    assert_eq!((a.virsh(&["domstate", NAME])?, b.virsh(&["domstate", NAME])?), {
        ("paused".to_owned(), "paused".to_owned())
    });
    let counted = a.serial().last_tick();
    b.virsh(&["resume", NAME])?;
    // Four ticks verify every page.
    b.wait_for_tick(counted + 5)?;
    assert_eq!((a.serial().last_tick(), b.serial().complaint()), (counted, None));
    assert_eq!(b.virsh(&["domstate", NAME])?, "running");
    a.virsh(&["destroy", NAME])?;
    b.wait_for_tick(counted + 7)
}
