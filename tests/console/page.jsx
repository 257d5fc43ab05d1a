// Takes dialogs from the server that served the page, does in each what a person would do, and reports what the form
// shows and sends.
import React from 'react';
import { flushSync } from 'react-dom';
import { createRoot } from 'react-dom/client';
import { drawnSchema, LaunchPlanInputs } from './form.jsx';

const pause = () => new Promise((done) => setTimeout(done, 0));

// React works in slices; the form is at rest when nothing in it has changed for a few of them.
async function settle() {
  let changes = 1;
  const observer = new MutationObserver(() => (changes += 1));
  observer.observe(document.body, { subtree: true, childList: true, attributes: true, characterData: true });
  for (let quiet = 0; quiet < 4; quiet += 1) {
    if (changes) quiet = 0;
    changes = 0;
    await pause();
  }
  observer.disconnect();
}

const byId = (id) => {
  const element = document.getElementById(id);
  if (!element) throw new Error(`the form has no ${id}`);
  return element;
};

const actions = {
  // types a text into a box, over what it held
  type(id, text) {
    const box = byId(id);
    const setter = Object.getOwnPropertyDescriptor(Object.getPrototypeOf(box), 'value').set;
    setter.call(box, text);
    box.dispatchEvent(new Event('input', { bubbles: true }));
  },
  // chooses an entry of a drop-down list by its text
  async choose(id, label) {
    byId(id).dispatchEvent(new MouseEvent('mousedown', { bubbles: true, button: 0 }));
    await settle();
    const options = [...document.querySelectorAll('[role=option]')];
    const option = options.find((one) => one.textContent === label);
    if (!option) throw new Error(`${id} offers ${options.map((one) => one.textContent)}, not ${label}`);
    option.click();
    // the list fades away; it would be in the way of the next
    while (document.querySelector('[role=option]')) await new Promise((done) => setTimeout(done, 20));
  },
  click(id) {
    byId(id).click();
  },
  // adds an entry to a list; `id` is that of the list's title
  add(id) {
    const lists = [...document.querySelectorAll('.MuiPaper-root')].filter((list) => list.contains(byId(`${id}__title`)));
    const buttons = [...lists[lists.length - 1].querySelectorAll('button')];
    // lists within an entry have buttons of their own; the list's is the last
    buttons[buttons.length - 1].click();
  },
};

// Returns titles, boxes and choices in the order in which a person reads them.
function shown() {
  const found = document.querySelectorAll('#dialog [id^=root]');
  const entries = [];
  for (const element of found) {
    const kind = element.id.endsWith('__title')
      ? 'title'
      : element.getAttribute('role') === 'combobox' || element.getAttribute('role') === 'button'
        ? 'choice'
        : element.matches('input, textarea')
          ? element.type
          : null;
    if (kind === null) continue;
    const value = kind === 'checkbox' ? element.checked : (element.value ?? element.textContent);
    entries.push({ id: element.id.replace('__title', ''), kind, value });
  }
  return entries;
}

// what is drawn; it stays until the next is
let root;

async function play(dialog) {
  const kept = {};
  const schema = drawnSchema(dialog.schema);
  const results = {};
  for (const [action, ...values] of dialog.steps) {
    if (action === 'open') {
      const preset = dialog.plans[values[0]];
      // the console draws the inputs anew for each plan that is chosen
      root?.unmount();
      root = createRoot(document.getElementById('dialog'));
      flushSync(() => root.render(<LaunchPlanInputs schema={schema} preset={preset} kept={kept} />));
      await settle();
    } else if (action === 'read') {
      results[values[0]] = { sent: JSON.parse(kept.sent), is_kept: kept.text !== undefined, shown: shown() };
    } else {
      await actions[action](...values);
      await settle();
    }
  }
  return results;
}

async function playAll() {
  const dialogs = await (await fetch('dialogs.json')).json();
  const answers = {};
  for (const [name, dialog] of Object.entries(dialogs)) {
    try {
      answers[name] = await play(dialog);
    } catch (error) {
      answers[name] = { error: `${error}` };
    }
  }
  await fetch('answers.json', { method: 'POST', body: JSON.stringify(answers) });
  document.title = 'done';
}

playAll();
