for (const box of document.querySelectorAll("div.table")) {
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = "Copy table";
  button.addEventListener("click", async () => {
    const rows = [...box.querySelectorAll("tr")];
    const lines = rows.map((row) => [...row.cells].map((cell) => cell.textContent).join("\t"));
    try {
      await navigator.clipboard.writeText(lines.join("\n") + "\n");
      button.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(box.querySelector("table"));
      button.textContent = "Selected";
    }
    setTimeout(() => { button.textContent = "Copy table"; }, 2000);
  });
  box.after(button);
}
