//! The command and its authority with TLS: certificates of a CA of their own, and of clients.

use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};

use super::certificates::{Ca, Pair};
use super::*;

/// A CA, and an authority of its own that asks for clients' certificates of it, in a process of its own.
struct World {
    authority: Listening,
    ca: TempFile,
    client: (TempFile, TempFile),
    _own: (TempFile, TempFile),
}

/// For a handshake on a machine that is busy.
const TIME: [&str; 4] = ["--connect-timeout", "30s", "--attempt-timeout", "60s"];

fn files(name: &str, pair: &Pair) -> (TempFile, TempFile) {
    let certificate = TempFile::new(&format!("{name}.crt"), &pair.certificate);
    (certificate, TempFile::new(&format!("{name}.key"), &pair.key))
}

impl World {
    /// With a certificate for this name.
    fn new(test: &str, name: &str) -> Self {
        let ca = Ca::new("a CA");
        let own = files(&format!("{test}-own"), &ca.issue(name));
        let client = files(&format!("{test}-client"), &ca.issue(ID));
        let ca = TempFile::new(&format!("{test}-ca.crt"), &ca.pem());
        let mut command = command();
        command.arg("authority").arg("--tls-certificate").arg(&own.0.0);
        command.arg("--tls-key").arg(&own.1.0).arg("--client-ca").arg(&ca.0);
        Self { authority: Listening::start(&mut command), ca, client, _own: own }
    }

    fn command(&self, subcommand: &str) -> Command {
        let mut command = as_client();
        command.args([subcommand, "--issuer", self.authority.get("issuer"), "--attempts", "1"]);
        command.args(TIME);
        command
    }

    /// One that trusts the CA.
    fn trusting(&self, subcommand: &str) -> Command {
        let mut command = self.command(subcommand);
        command.arg("--root-certificate").arg(&self.ca.0);
        command
    }
}

fn with_certificate(command: &mut Command, (certificate, key): &(TempFile, TempFile)) {
    command.arg("--client-certificate").arg(&certificate.0).arg("--client-key").arg(&key.0);
}

#[test]
fn a_certificate_is_enough() {
    let world = World::new("enough", "127.0.0.1");
    let mut check = world.trusting("check");
    with_certificate(check.args(["--auth", "tls_client_auth"]), &world.client);
    let output = run(&mut check);
    assert_eq!(output.status.code(), Some(0), "{}", stdout(&output));
    assert!(stdout(&output).contains("no longer active"), "{}", stdout(&output));
}

#[test]
fn what_is_wrong_with_tls_is_named_first_with_its_flag() {
    let world = World::new("wrong", "127.0.0.1");
    let another = World::new("wrong-name", "as.example");
    let strange = files("wrong-strange", &Ca::new("another").issue(ID));
    let mut plain = as_client();
    let port = world.authority.get("issuer").rsplit(':').next().unwrap();
    plain.args(["check", "--issuer", &format!("http://127.0.0.1:{port}"), "--attempts", "1"]);
    let mut with_strange = world.trusting("check");
    with_certificate(with_strange.args(["--auth", "tls-client"]), &strange);
    for (mut check, says) in [
        (
            world.command("check"),
            "this machine does not trust the issuer of the server's certificate: set its CA with \
                --root-certificate",
        ),
        (another.trusting("check"), "the server's certificate is for another name: check --issuer"),
        (plain, "this port does not use plain HTTP: use https: in --issuer"),
        (
            with_strange,
            "the server does not accept this client's certificate: check --client-certificate",
        ),
    ] {
        let output = run(&mut check);
        assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
        let said = stdout(&output);
        let first = said.lines().find_map(|line| line.split_once(" FAILED  ")).expect(&said).1;
        assert!(first.starts_with(says), "{says:?}: {said}");
    }
}

/// One that nobody has issued: a server's own, or a CA's that a server shows as its own.
fn self_signed(name: &str, is_ca: bool) -> Pair {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new([name.to_owned()]).unwrap();
    if is_ca {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    }
    Pair { certificate: params.self_signed(&key).unwrap().pem(), key: key.serialize_pem() }
}

#[test]
fn a_certificate_that_nobody_has_issued_is_named_with_what_would_do() {
    let of_a_ca = "the server shows the certificate of a CA as its own: have it issue one for its name, and give \
                   the CA with --root-certificate";
    let unknown = "this machine does not trust the issuer of the server's certificate: set its CA with \
        --root-certificate";
    for (is_ca, trusted, says) in [
        (false, false, unknown),
        (false, true, "discovery      ok"),
        (true, false, of_a_ca),
        (true, true, of_a_ca),
    ] {
        let own =
            files(&format!("self-signed-{is_ca}-{trusted}"), &self_signed("127.0.0.1", is_ca));
        let mut authority = command();
        authority
            .arg("authority")
            .arg("--tls-certificate")
            .arg(&own.0.0)
            .arg("--tls-key")
            .arg(&own.1.0);
        let authority = Listening::start(&mut authority);
        let mut check = as_client();
        check.args(["check", "--issuer", authority.get("issuer"), "--attempts", "1"]);
        check.args(TIME);
        if trusted {
            check.arg("--root-certificate").arg(&own.0.0);
        }
        let said = stdout(&run(&mut check));
        assert!(said.lines().next().unwrap().contains(says), "{is_ca} {trusted}: {said}");
    }
}
