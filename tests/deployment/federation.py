"""A federation of real processes on loopback: one SuperLink with TLS and some SuperNodes.

Certificates are made here and live as long as the test. Every process has its own FLWR_HOME and
ports on 127.0.0.1, and is killed with everything below it at the end.
"""

import contextlib
import datetime
import ipaddress
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from fedllm_app.deploy.superlink import SCRIPTS, flower_environment, free_port, guarded, listens


@dataclass(frozen=True)
class Certificates:
    """PEM files: what everybody trusts, and what the SuperLink shows and keeps."""

    ca: Path
    server: Path
    server_key: Path


@dataclass(frozen=True)
class Federation:
    """A running federation: the environment in which `flwr` finds it, ports, logs, processes."""

    env: Mapping[str, str]
    ports: Sequence[int]
    folder: Path
    guards: Sequence[subprocess.Popen[bytes]]

    def flwr(self, *arguments: str, timeout_s: float = 200) -> subprocess.CompletedProcess[str]:
        """Run a `flwr` command against it; return its exit code and output, both streams."""
        try:
            return subprocess.run(
                [str(SCRIPTS / "flwr"), *arguments],
                env=self.env,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=timeout_s,
                check=False,
            )
        except subprocess.TimeoutExpired as late:
            output = (late.stdout or b"").decode(errors="replace")
            raise AssertionError(f"{late}\n{output}\n{self.logs()}") from None

    def listeners(self) -> list[tuple[str, int]]:
        """Return the address and port of every TCP socket that its processes listen on."""
        return sorted(
            (connection.laddr.ip, connection.laddr.port)
            for guard in self.guards
            for process in psutil.Process(guard.pid).children(recursive=True)
            for connection in process.net_connections("tcp")
            if connection.status == psutil.CONN_LISTEN
        )

    def logs(self) -> str:
        """Return the end of every process's log, for a failed assertion."""
        return "\n".join(
            f"--- {log.parent.name}\n{log.read_text(errors='replace')[-3000:]}"
            for log in sorted(self.folder.glob("*/process.log"))
        )


def make_certificates(folder: Path) -> Certificates:
    """Write a certificate authority and a certificate of 127.0.0.1 that it signed."""
    start = datetime.datetime.now(datetime.UTC) - datetime.timedelta(minutes=5)
    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(2)]
    names = [
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])
        for text in ("fedllm test authority", "127.0.0.1")
    ]
    files = Certificates(folder / "ca.pem", folder / "server.pem", folder / "server.key")
    for i, path in enumerate((files.ca, files.server)):
        builder = (
            x509.CertificateBuilder()
            .subject_name(names[i])
            .issuer_name(names[0])
            .public_key(keys[i].public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(start)
            .not_valid_after(start + datetime.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=i == 0, path_length=None), critical=True)
        )
        if i == 1:
            address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
            builder = builder.add_extension(x509.SubjectAlternativeName([address]), critical=False)
        certificate = builder.sign(keys[0], hashes.SHA256())
        path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    files.server_key.touch(mode=0o600)
    files.server_key.write_bytes(
        keys[1].private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return files


def wait_until_listening(guard: subprocess.Popen[bytes], port: int, log: Path) -> None:
    """Wait for a guarded command to listen; fail with its log if it ends or takes a minute."""
    deadline = time.monotonic() + 60
    while not listens(guard, port):
        if guard.poll() is not None or time.monotonic() > deadline:
            raise AssertionError(f"nothing listens on {port}:\n{log.read_text(errors='replace')}")
        time.sleep(0.1)


@contextlib.contextmanager
def federation(
    folder: Path,
    nodes: Sequence[Mapping[str, str]],
    environments: Mapping[str, Mapping[str, str]] | None = None,
) -> Iterator[Federation]:
    """Start a SuperLink and one SuperNode per node-config; kill all of them at the end.

    Parameters
    ----------
    environments : further variables of "superlink", "supernode-0", ...
    """
    certificates = make_certificates(folder)
    with contextlib.ExitStack() as stack:

        def start(name: str, port: int, *arguments: str) -> subprocess.Popen[bytes]:
            home = folder / name
            home.mkdir()
            command = [str(SCRIPTS / arguments[0]), *arguments[1:]]
            command += ["--host", "127.0.0.1", "--port", str(port)]
            log = home / "process.log"
            env = flower_environment(home) | dict((environments or {}).get(name, {}))
            return stack.enter_context(guarded(command, env, log))

        ports = [free_port() for _ in range(len(nodes) + 1)]
        guards = [
            start(
                "superlink",
                ports[0],
                "flower-superlink",
                *("--ssl-ca-certfile", str(certificates.ca)),
                *("--ssl-certfile", str(certificates.server)),
                *("--ssl-keyfile", str(certificates.server_key)),
            )
        ]
        wait_until_listening(guards[0], ports[0], folder / "superlink" / "process.log")
        for i, (port, node) in enumerate(zip(ports[1:], nodes, strict=True)):
            # Strings in a node-config must be quoted.
            config = " ".join(f'{key}="{value}"' for key, value in node.items())
            arguments = ["--superlink", f"127.0.0.1:{ports[0]}", "--node-config", config]
            arguments += ["--root-certificates", str(certificates.ca)]
            guards.append(start(f"supernode-{i}", port, "flower-supernode", *arguments))
        cli = folder / "cli"
        cli.mkdir()
        (cli / "config.toml").write_text(
            '[superlink]\ndefault = "test"\n\n[superlink.test]\n'
            f'address = "127.0.0.1:{ports[0]}"\nroot-certificates = "{certificates.ca}"\n'
        )
        yield Federation(flower_environment(cli), ports, folder, guards)
