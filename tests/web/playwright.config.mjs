import { defineConfig } from "@playwright/test";

export default defineConfig({
  testDir: ".",
  testMatch: "*.spec.mjs",
  outputDir: "results",
  reporter: [["list"]],
  timeout: 60_000,
  expect: { timeout: 20_000 },
  // One server, whose figures tests read.
  workers: 1,
  forbidOnly: true,
  use: {
    baseURL: process.env.CLIENTS_URL,
    launchOptions: { executablePath: process.env.CHROMIUM || undefined },
    screenshot: "only-on-failure",
    viewport: { width: 1280, height: 860 },
  },
});
