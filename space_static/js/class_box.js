// A searchable box of class names: the ARIA combobox pattern, with a list of what matches.

const MAX_SHOWN = 60;

export class ClassBox {
  /** `root` holds an input and a list. Calls `onChoose` with the id of each class chosen. */
  constructor(root, classes, onChoose) {
    Object.assign(this, { classes, onChoose });
    this.input = root.querySelector("input");
    this.list = root.querySelector("ul");
    this.active = -1; // which option of the list
    this.ids = [];
    this.input.addEventListener("focus", () => this.input.select());
    this.input.addEventListener("click", () => this.#open(""));
    this.input.addEventListener("input", () => this.#open(this.input.value));
    this.input.addEventListener("keydown", (event) => this.#onKey(event));
    this.input.addEventListener("blur", () => this.#close());
    // pointerdown, as a click would come after the input has lost its focus and closed the list
    this.list.addEventListener("pointerdown", (event) => {
      event.preventDefault();
      const option = event.target.closest("li[data-id]");
      if (option && event.pointerType === "mouse") this.#choose(Number(option.dataset.id));
    });
    this.list.addEventListener("click", (event) => {
      const option = event.target.closest("li[data-id]");
      if (option) this.#choose(Number(option.dataset.id));
    });
  }

  set value(id) {
    this.id = id;
    this.#close();
  }

  get isOpen() {
    return !this.list.hidden;
  }

  #open(text) {
    const found = this.classes.search(text);
    this.ids = found.slice(0, MAX_SHOWN);
    if (text === "" && !this.ids.includes(this.id)) this.ids = [this.id, ...this.ids];
    const options = this.ids.map((id, i) => {
      const option = document.createElement("li");
      option.role = "option";
      option.id = `${this.list.id}-${i}`;
      option.dataset.id = id;
      option.textContent = this.classes.names[id];
      return option;
    });
    const hint = document.createElement("li");
    hint.className = "hint";
    hint.role = "presentation";
    const rest = found.length - MAX_SHOWN;
    hint.textContent = found.length === 0 ? "No such class" : `${rest.toLocaleString("en")} more: type a name`;
    this.list.replaceChildren(...options, ...(found.length === 0 || rest > 0 ? [hint] : []));
    this.list.hidden = false;
    this.input.ariaExpanded = "true";
    this.#activate(text === "" ? this.ids.indexOf(this.id) : Math.min(0, this.ids.length - 1));
  }

  #close() {
    this.list.hidden = true;
    this.input.ariaExpanded = "false";
    this.input.removeAttribute("aria-activedescendant");
    this.input.value = this.classes.names[this.id];
  }

  #activate(index) {
    this.active = index;
    [...this.list.querySelectorAll("[role=option]")].forEach((option, i) => {
      option.ariaSelected = String(i === index);
      if (i === index) option.scrollIntoView({ block: "nearest" });
    });
    if (index >= 0) this.input.setAttribute("aria-activedescendant", `${this.list.id}-${index}`);
    else this.input.removeAttribute("aria-activedescendant");
  }

  #choose(id) {
    if (!this.isOpen) return;
    this.value = id;
    this.onChoose(id);
  }

  #onKey(event) {
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      event.preventDefault();
      if (!this.isOpen) this.#open("");
      else if (this.ids.length > 0) {
        const count = this.ids.length;
        this.#activate((this.active + (event.key === "ArrowDown" ? 1 : count - 1) + count) % count);
      }
    } else if (event.key === "Enter" && this.isOpen) {
      event.preventDefault();
      if (this.active >= 0) this.#choose(this.ids[this.active]);
    } else if (event.key === "Escape") {
      this.#close();
    }
  }
}
