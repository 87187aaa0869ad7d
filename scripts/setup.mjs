// Makes `npm start`, `npm test` and the other scripts work on a fresh checkout: installs the
// dependencies when they are missing or older than the lock file. Runs on any Node >= 18, because
// the Node that the project itself runs on (the npm package `node`) arrives with that install.
// `setup.mjs bench` does the same in that folder, which has a package.json and a lock of its own.
import { spawnSync } from "node:child_process"
import { createHash } from "node:crypto"
import { existsSync, readFileSync, writeFileSync } from "node:fs"
import { fileURLToPath } from "node:url"

const folder = process.argv[2]
const name = ["resilient-websocket", ...(folder === undefined ? [] : [folder])].join("/")
const root = fileURLToPath(new URL(folder === undefined ? ".." : `../${folder}/`, import.meta.url))
const stamp = `${root}node_modules/.setup-stamp`
const wanted = createHash("sha256")
  .update(readFileSync(`${root}package-lock.json`))
  .update(readFileSync(`${root}package.json`))
  .digest("hex")

if (!existsSync(stamp) || readFileSync(stamp, "utf8") !== wanted) {
  console.log(`${name}: installing dependencies (npm ci), once`)
  const npm = process.env.npm_execpath
  const args = ["ci", "--no-audit", "--no-fund", "--loglevel=error"]
  const result = npm === undefined
    ? spawnSync("npm", args, { cwd: root, stdio: "inherit", shell: process.platform === "win32" })
    : spawnSync(process.execPath, [npm, ...args], { cwd: root, stdio: "inherit" })
  if (result.status !== 0) {
    console.error(`${name}: npm ci failed; the lines above say why`)
    process.exit(result.status ?? 1)
  }
  writeFileSync(stamp, wanted)
}
