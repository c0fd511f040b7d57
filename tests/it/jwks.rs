//! Keys of an issuer behind a URL, from a real server: fetched, renewed when a JWT names a key that is new, and kept when the
//! issuer is down.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use limiter_tests::lab::OUTSIDE;
use limiter_tests::{Daemon, Lab, in_lab, skip, wait};
use limiter_user::tls::Pin;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;
use tokio_rustls::rustls::ClientConfig;

use crate::access::issuer::{Authority, Issuer};
use crate::remote::{self, Session};

const PORT: u16 = 8443;
/// A benchmarking network (RFC 2544): who shows JWTs that are not good has to wait.
const NETWORK: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 0);
const PATIENCE: Duration = Duration::from_secs(20);

/// nginx as the server of an issuer, outside of the protected host; gone when dropped.
struct Site {
    process: Option<Child>,
    directory: PathBuf,
}

impl Site {
    fn new(lab: &Lab, authority: &Authority) -> Result<Self> {
        let directory = lab.scratch.path("site");
        fs::create_dir(&directory)?;
        let name = OUTSIDE.v4.to_string();
        let (certificate, key) = authority.issue(&name, &directory)?;
        let shown = directory.display();
        let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|kind| format!("{kind}_temp_path {shown}/{kind};"))
            .concat();
        let text = format!(
            "user root;\ndaemon off;\npid {shown}/pid;\nerror_log stderr;\nevents {{}}\nhttp {{\n{temporary}\n\
             access_log {shown}/access.log;\nserver {{\nlisten {name}:{PORT} ssl;\nssl_protocols TLSv1.3;\n\
             ssl_certificate {};\nssl_certificate_key {};\nroot {shown};\n}}\n}}\n",
            certificate.display(),
            key.display()
        );
        lab.scratch.write("site/nginx.conf", text)?;
        Ok(Self { process: None, directory })
    }

    fn url(&self) -> String {
        format!("https://{}:{PORT}/jwks.json", OUTSIDE.v4)
    }

    fn serve(&self, keys: &str) -> Result<()> {
        // As a whole: it may be read at any moment.
        fs::write(self.directory.join("new"), keys)?;
        Ok(fs::rename(self.directory.join("new"), self.directory.join("jwks.json"))?)
    }

    fn start(&mut self, lab: &Lab) -> Result<()> {
        let log = File::create(self.directory.join("nginx.log"))?;
        let mut command = lab.outside.command("nginx");
        command.arg("-p").arg(&self.directory).arg("-e").arg("stderr").arg("-c").arg("nginx.conf");
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let process = self.process.insert(command.spawn().context("failed to start nginx")?);
        let address = SocketAddr::from((OUTSIDE.v4, PORT));
        wait::until_true("nginx serves", PATIENCE, || {
            if let Some(status) = process.try_wait()? {
                bail!("nginx ended with {status}");
            }
            lab.outside.enter(|| Ok(TcpStream::connect(address).is_ok()))
        })?;
        Ok(())
    }

    /// Asked to end, it takes its workers along.
    fn stop(&mut self) {
        if let Some(mut process) = self.process.take() {
            if let Ok(pid) = i32::try_from(process.id()) {
                let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
            }
            let _ = process.wait();
        }
    }

    /// How often the keys were asked for.
    fn asked(&self) -> usize {
        let log = fs::read_to_string(self.directory.join("access.log")).unwrap_or_default();
        log.lines().filter(|line| line.contains("GET /jwks.json")).count()
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Shows JWTs, from another address each time.
struct Caller<'a> {
    lab: &'a Lab,
    config: Arc<ClientConfig>,
    next: u32,
}

impl Caller<'_> {
    fn status(&mut self, issuer: &Issuer) -> Result<u16> {
        self.next += 1;
        self.status_from(Ipv4Addr::from(u32::from(NETWORK) + self.next), issuer)
    }

    fn status_from(&self, from: Ipv4Addr, issuer: &Issuer) -> Result<u16> {
        let (jwt, config) = (issuer.jwt("limiter:read", &json!({}))?, Arc::clone(&self.config));
        let ask = || Session::open_from(from, config)?.ask("GET", "/v1/counters", &jwt, "");
        Ok(self.lab.outside.enter(ask)?.status)
    }

    fn wait(&mut self, issuer: &Issuer, status: u16) -> Result<Duration> {
        wait::until_true(&format!("a JWT is answered with {status}"), PATIENCE, || {
            Ok(self.status(issuer)? == status)
        })
    }
}

fn prepare(lab: &Lab, site: &Site, authority: &Authority) -> Result<(Daemon, Pin)> {
    let ca = lab.scratch.write("login.pem", authority.pem())?;
    let api = format!(
        "[api.oauth]\nissuer = {:?}\naudience = {:?}\njwks = {:?}\njwks_ca = {ca:?}\n\
         [[api.oauth.role]]\nscope = \"limiter:read\"\nscopes = [\"read\"]\n",
        Issuer::NAME,
        Issuer::AUDIENCE,
        site.url()
    );
    remote::prepare(lab, &api, "")
}

#[test]
fn keys_behind_a_url_are_kept_up_to_date() {
    if Command::new("nginx").arg("-v").output().is_err() {
        return skip("keys_behind_a_url_are_kept_up_to_date", "there is no nginx");
    }
    in_lab("jwks", |lab| {
        lab.outside.ip(&format!("route add local {NETWORK}/16 dev lo"))?;
        lab.host.ip(&format!("route add {NETWORK}/16 via {}", OUTSIDE.v4))?;
        let (authority, others) = (Authority::new()?, Authority::new()?);
        let mut site = Site::new(lab, &authority)?;
        let [first, second, third, stranger] = ["k1", "k2", "k3", "k9"].map(Issuer::new);
        let (first, second, third, stranger) = (first?, second?, third?, stranger?);
        site.serve(&json!({"keys": [first.jwk()]}).to_string())?;

        // The issuer is down at first; the daemon starts all the same, and says so.
        let (mut daemon, pin) = prepare(lab, &site, &authority)?;
        remote::launch(&mut daemon)?;
        daemon.wait_logged("no JWT is accepted")?;
        let mut caller = Caller { lab, config: remote::client(pin, b"http/1.1")?, next: 0 };
        // It cannot be told who they are, which is no mistake of theirs: nobody has to wait for it.
        for _ in 0..20 {
            let status = caller.status_from(Ipv4Addr::from(u32::from(NETWORK) + 0xFF00), &first)?;
            ensure!(status == 503, "without keys, the answer is {status}");
        }
        site.start(lab)?;
        let took = caller.wait(&first, 200)?;
        println!("the issuer came up: its keys were there after {took:.1?}");
        ensure!(daemon.cli.ok("status")?.find("api.oauth").is_none(), "still a problem");

        // A new key, and the former one is gone.
        site.serve(&json!({"keys": [second.jwk()]}).to_string())?;
        let took = caller.wait(&second, 200)?;
        println!("a new key was known after {took:.1?}");
        ensure!(caller.status(&first)? == 401, "a key that is gone is accepted");

        // Anybody can name a key that is not known: the issuer is not asked for each.
        let before = site.asked();
        for _ in 0..100 {
            ensure!(caller.status(&stranger)? == 401, "a stranger is accepted");
        }
        let asked = site.asked() - before;
        ensure!(asked <= 3, "a hundred unknown keys made for {asked} questions");

        // What is not a set of keys, or too long, changes nothing.
        for (keys, why) in [
            ("no keys".to_owned(), "no JWK set"),
            (format!("{}{}", json!({"keys": [third.jwk()]}), " ".repeat(2 << 20)), "limit"),
        ] {
            site.serve(&keys)?;
            wait::until_true(&format!("the log says {why}"), PATIENCE, || {
                caller.status(&third)?;
                Ok(daemon.log().contains(why))
            })?;
            ensure!(caller.status(&third)? == 401, "{why}: accepted");
            ensure!(caller.status(&second)? == 200, "{why}: the former keys are forgotten");
        }
        let problems = daemon.cli.run(&["status"])?.stdout;
        ensure!(problems.contains("those of before are used"), "{problems}");

        site.stop();
        caller.status(&third)?;
        wait::until_true("the issuer is missed", PATIENCE, || {
            Ok(daemon.log().contains("refused (os error 111)"))
        })?;
        ensure!(caller.status(&second)? == 200, "the keys are forgotten when the issuer is down");

        // Somebody else at its address, whom nobody vouches for.
        fs::remove_dir_all(&site.directory)?;
        let mut impostor = Site::new(lab, &others)?;
        impostor.serve(&json!({"keys": [third.jwk()]}).to_string())?;
        impostor.start(lab)?;
        wait::until_true("the impostor is told apart", PATIENCE, || {
            ensure!(caller.status(&third)? == 401, "the keys of an impostor are used");
            Ok(daemon.log().contains("invalid peer certificate"))
        })?;
        ensure!(caller.status(&second)? == 200, "the keys are forgotten because of an impostor");

        // The configuration names another place: nobody is refused until its keys are there, and then they count alone.
        let text = fs::read_to_string(&daemon.places.config)?;
        lab.scratch.write("others.pem", others.pem())?;
        fs::write(&daemon.places.config, text.replace("login.pem", "others.pem"))?;
        daemon.cli.ok("reload")?;
        let mut answers = Vec::new();
        wait::until_true("the keys of the other place are used", PATIENCE, || {
            answers.push(caller.status(&second)?);
            Ok(answers.last() == Some(&401))
        })?;
        ensure!(answers.iter().filter(|status| **status != 200).count() == 1, "{answers:?}");
        ensure!(caller.status(&third)? == 200, "the other place's keys are not used");
        Ok(())
    });
}
