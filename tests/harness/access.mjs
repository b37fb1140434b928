// A team of Cloudflare Access: its keys, served on loopback, and tokens that they sign.

import { generateKeyPairSync, sign } from "node:crypto";
import { createServer } from "node:http";

const encoded = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");
const secondsNow = () => Math.floor(Date.now() / 1_000);

/** A key of a team. */
export class Key {
  constructor(id) {
    this.id = id;
    this.pair = generateKeyPairSync("rsa", { modulusLength: 2_048 });
  }

  /** The public half, as the team serves it. */
  get public() {
    const { n, e } = this.pair.publicKey.export({ format: "jwk" });
    return { kid: this.id, kty: "RSA", alg: "RS256", use: "sig", n, e };
  }

  /**
   * Returns a token with these claims.
   *
   * @param {object} claims
   * @param {object} [header]
   */
  sign(claims, header = {}) {
    const head = encoded({ alg: "RS256", kid: this.id, typ: "JWT", ...header });
    const signed = `${head}.${encoded(claims)}`;
    const signature = sign("sha256", Buffer.from(signed), this.pair.privateKey);
    return `${signed}.${signature.toString("base64url")}`;
  }
}

/** Starts a team that serves its keys. */
export async function startTeam() {
  const team = {
    name: "example",
    audience: "4714c1358e65fe4b408ad6d432a5f878f08194bdb4752441fd56faefa9b2b6f2",
    /** @type {Key[]} */
    keys: [new Key("first")],
    fetches: 0,
    isDown: false,
    url: "",
    /** Returns the claims of a valid token, with some of them replaced. */
    claims: (changed = {}) => ({
      iss: "https://example.cloudflareaccess.com",
      aud: [team.audience],
      email: "operator@example.com",
      iat: secondsNow(),
      nbf: secondsNow(),
      exp: secondsNow() + 600,
      ...changed,
    }),
    /** @type {() => Promise<void>} */
    stop: async () => {},
  };
  const server = createServer((_request, response) => {
    team.fetches += 1;
    response.statusCode = team.isDown ? 500 : 200;
    response.setHeader("Content-Type", "application/json");
    response.end(JSON.stringify({ keys: team.keys.map((key) => key.public) }));
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", () => resolve(undefined)));
  const address = server.address();
  if (address === null || typeof address === "string") throw new Error("it has no port");
  team.url = `http://127.0.0.1:${address.port}/cdn-cgi/access/certs`;
  team.stop = () =>
    new Promise((resolve) => {
      server.closeAllConnections();
      server.close(() => resolve());
    });
  return team;
}
