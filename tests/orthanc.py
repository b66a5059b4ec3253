"""An Orthanc on this machine, for tests: the real server with its DICOMweb plugin, on the loopback, in a folder of its own."""

import json
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import requests
from commands import free_port
from dicomweb_client import DICOMwebClient
from pydicom import dcmread

PROGRAM = Path("/usr/sbin/Orthanc")
PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
START_S = 30.0


def missing_programs() -> list[str]:
    return [str(path) for path in (PROGRAM, PLUGIN) if not path.exists()]


class Orthanc:
    """Runs from `start` to `stop`.

    Attributes:
        url: of its DICOMweb service.
        port: of this and of its own interface.
    """

    def start(self) -> None:
        """AssertionError, with what it said, if it does not come up."""
        self.folder = Path(tempfile.mkdtemp(prefix="cxr-orthanc-"))
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}/dicom-web"
        config = self.folder / "orthanc.json"
        config.write_text(
            json.dumps(
                {
                    "StorageDirectory": str(self.folder / "db"),
                    "IndexDirectory": str(self.folder / "db"),
                    "HttpPort": self.port,
                    "Plugins": [str(PLUGIN)],
                    "RemoteAccessAllowed": False,
                    "AuthenticationEnabled": False,
                    "DicomServerEnabled": False,
                    "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
                }
            )
        )
        self.log = self.folder / "orthanc.log"
        with self.log.open("ab") as out:
            self.process = subprocess.Popen([PROGRAM, config], stdin=subprocess.DEVNULL, stdout=out, stderr=out)
        deadline = time.monotonic() + START_S
        while not self._answers():
            assert self.process.poll() is None, self.log.read_text(errors="replace")[-3000:]
            assert time.monotonic() < deadline, f"not in {START_S} s\n{self.log.read_text(errors='replace')[-3000:]}"
            time.sleep(0.05)

    def _answers(self) -> bool:
        try:
            return requests.get(f"{self.url}/studies?limit=1", timeout=2).ok
        except requests.RequestException:
            return False

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def store(self, paths: list[Path]) -> None:
        """By STOW-RS."""
        client = DICOMwebClient(self.url)
        for path in paths:
            client.store_instances([dcmread(path)])

    def stored(self) -> dict[str, bytes]:
        """SOPInstanceUID -> the file as it lies in the store, by Orthanc's own interface and not by DICOMweb."""
        base = f"http://127.0.0.1:{self.port}"
        found = {}
        for name in requests.get(f"{base}/instances", timeout=10).json():
            uid = requests.get(f"{base}/instances/{name}/simplified-tags", timeout=10).json()["SOPInstanceUID"]
            found[uid] = requests.get(f"{base}/instances/{name}/file", timeout=10).content
        return found
