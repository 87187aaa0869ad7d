/** Chromium, driven by Playwright: as it is installed here, with nothing between it and this machine's own ports. */
import { accessSync, constants } from "node:fs"
import { delimiter, join } from "node:path"
import { type Browser, chromium as playwright } from "playwright-core"
import type { Service } from "./services.ts"

const names = ["chromium", "chromium-browser", "google-chrome"]

const isExecutable = (path: string): boolean => {
  try {
    accessSync(path, constants.X_OK)
    return true
  } catch {
    return false
  }
}

const folders = (process.env["PATH"] ?? "").split(delimiter).filter((folder) => folder !== "")
const executablePath = names.flatMap((name) => folders.map((folder) => join(folder, name))).find(isExecutable)

/** Chromium, for `describeWithService`. */
export const chromium: Service = {
  name: "Chromium",
  found: executablePath !== undefined,
  install: "apt-get install chromium"
}

/** Starts one, to be closed by who started it; it does not outlive this process. */
export const launchChromium = (): Promise<Browser> =>
  playwright.launch({
    executablePath: executablePath ?? "",
    headless: true,
    timeout: 200_000,
    args: [
      "--no-sandbox",
      "--no-proxy-server",
      "--disable-gpu",
      "--disable-quic",
      "--no-first-run",
      "--disable-background-networking",
      "--disable-component-update",
      "--disable-sync"
    ]
  })
