//! Other servers that run a command for each session, where they are installed.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

pub(super) struct Other {
    pub(super) name: &'static str,
    pub(super) address: SocketAddr,
    child: Child,
    _folder: tempfile::TempDir,
}

impl Drop for Other {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The command of a server on a port, with a folder for what it needs.
type Start<'a> = &'a dyn Fn(u16, &Path) -> Command;

/// Starts those that there are, with the certificate and key of `identity`.
pub(super) fn start(identity: &Path) -> Vec<Other> {
    let files = ["server.pem", "server-key.pem"].map(|name| identity.join(name));
    let [chain, key] = files.each_ref().map(|path| path.display().to_string());
    let socat = |port: u16, _: &Path| {
        let listen = format!(
            "OPENSSL-LISTEN:{port},bind=127.0.0.1,reuseaddr,fork,backlog=1024,cert={chain},key={key},verify=0"
        );
        let mut socat = Command::new("socat");
        socat.arg(listen).arg("EXEC:cat");
        socat
    };
    let stunnel = |port: u16, folder: &Path| {
        let file = folder.join("stunnel.conf");
        let text = format!(
            "foreground = yes\npid =\nsyslog = no\ndebug = 0\noutput = /dev/null\n[cat]\naccept = 127.0.0.1:{port}\ncert = {chain}\nkey = {key}\nexec = /bin/cat\nexecArgs = cat\n"
        );
        std::fs::write(&file, text).unwrap();
        let mut stunnel = Command::new("stunnel");
        stunnel.arg(file);
        stunnel
    };
    let both: [(_, Start<'_>); 2] = [("socat", &socat), ("stunnel", &stunnel)];
    both.into_iter()
        .filter_map(|(name, command)| Other::start(name, command))
        .collect()
}

impl Other {
    fn start(name: &'static str, command: Start<'_>) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        // Neither tells which port it took: one that was just free is.
        let address = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = address.local_addr().unwrap();
        let child = command(address.port(), folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .ok()?;
        let other = Self {
            name,
            address,
            child,
            _folder: folder,
        };
        // Nor when they listen.
        for _ in 0..200 {
            if TcpStream::connect(address).is_ok() {
                return Some(other);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        None
    }
}
