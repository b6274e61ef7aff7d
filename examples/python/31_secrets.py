"""A key that the code in a sandbox uses and cannot read, and a token that says which sandbox a request comes from."""

import base64
import json
import uuid

from e2b import Sandbox, Secret

name = f"example-{uuid.uuid4().hex}"
Secret.create(name, "the-key")
try:
    rule = {
        "transform": lambda ctx: {
            "headers": {"Authorization": f"Bearer {Secret.fill(name)}", "X-Identity": ctx.iam.tokens["example"]},
        }
    }
    with Sandbox.create(
        iam={"tokens": {"example": Secret.iam_token(audience="https://httpbin.org", token_type="JWT-SVID")}},
        network={"rules": {"httpbin.org": [rule]}},
    ) as sandbox:
        request = "curl --silent --fail https://httpbin.org/headers"  # httpbin.org sends the headers back: a real service would not
        headers = json.loads(sandbox.commands.run(request).stdout)["headers"]
        print("the service sees:", headers["Authorization"])
        claims = headers["X-Identity"].split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(claims + "=" * (-len(claims) % 4)))
        print("the token is for:", claims["aud"], "and from this sandbox:", "yes" if claims["sandbox_id"] == sandbox.sandbox_id else "no")

        Secret.update(name, "another-key")
        while "another-key" not in sandbox.commands.run(request).stdout:
            pass
        print("after the update: Bearer another-key")
finally:
    Secret.destroy(name)
