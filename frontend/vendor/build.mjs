// Makes the two vendored files from the packages in tests/frontend (see README.md there for the pins):
//   npm install --no-package-lock --prefix tests/frontend && node frontend/vendor/build.mjs
import {createHash} from "node:crypto";
import {readFileSync} from "node:fs";
import {createRequire} from "node:module";
import {dirname, join} from "node:path";
import {fileURLToPath} from "node:url";

const here = dirname(fileURLToPath(import.meta.url));
const packages = join(here, "../../tests/frontend");
const require = createRequire(join(packages, "package.json"));
const {buildSync} = require("esbuild");

const bundles = [
  {file: "preact.js", entry: join(here, "preact.entry.js"), of: ["preact", "htm", "@preact/signals", "@preact/signals-core"]},
  {file: "uplot.js", entry: require.resolve("uplot/dist/uPlot.esm.js"), of: ["uplot"]},
];
for (const {file, entry, of} of bundles) {
  const manifests = of.map((name) => JSON.parse(readFileSync(join(packages, "node_modules", name, "package.json"), "utf8")));
  const banner = manifests.map((m) => `${m.name} ${m.version} (${m.license})`).join(", ");
  buildSync({
    entryPoints: [entry], outfile: join(here, file), bundle: true, minify: true, format: "esm", target: "es2022",
    legalComments: "none", nodePaths: [join(packages, "node_modules")], banner: {js: `/* ${banner} */`},
  });
  console.log(file, createHash("sha256").update(readFileSync(join(here, file))).digest("hex"));
}
