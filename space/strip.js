// Thumbnails that are buttons, cut out of one picture.
const tiles = element.querySelector(".tiles");
let address = null;

async function draw() {
    const {labels = [], picks = [], sheet, columns = 1, pressed = -1} = props.value || {};
    element.classList.toggle("empty", !picks.length);
    if (address) URL.revokeObjectURL(address);
    address = sheet ? URL.createObjectURL(await (await fetch(sheet)).blob()) : null;
    tiles.style.setProperty("--sheet", address ? `url(${address})` : "none");
    tiles.style.setProperty("--columns", columns);
    tiles.style.setProperty("--rows", Math.ceil(picks.length / columns));
    tiles.replaceChildren(...picks.map((pick, i) => {
        const tile = document.createElement("button");
        tile.type = "button";
        tile.title = tile.ariaLabel = labels[i];
        tile.ariaPressed = String(i === pressed);
        tile.style.setProperty("--x", i % columns);
        tile.style.setProperty("--y", Math.floor(i / columns));
        tile.addEventListener("click", () => {
            for (const other of tiles.children) other.ariaPressed = String(other === tile);
            trigger("pick", {pick});
        });
        return tile;
    }));
}

watch("value", draw);
draw();
