"""Let others upload and download one file, by an address that is signed and works for a minute only."""

import urllib.error
import urllib.request

from e2b import Sandbox

with Sandbox.create() as sandbox:
    upload = sandbox.upload_url("data.txt", use_signature_expiration=60)
    request = urllib.request.Request(upload, data=b"uploaded", headers={"Content-Type": "application/octet-stream"})
    urllib.request.urlopen(request).close()
    print("in the sandbox:", sandbox.files.read("data.txt"))

    download = sandbox.download_url("data.txt", use_signature_expiration=60)
    print("downloaded:", urllib.request.urlopen(download).read().decode())

    try:
        urllib.request.urlopen(download.replace("data.txt", "other.txt"))
    except urllib.error.HTTPError as error:
        print("another file by the same signature:", error.code)
