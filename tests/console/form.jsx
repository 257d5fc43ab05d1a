// The launch form of Flyte's console, as far as a config's form depends on it: how a schema is changed before it is
// drawn, what is kept when another launch plan is chosen, and what is sent.
import React from 'react';
import Card from '@mui/material/Card';
import { Form } from '@rjsf/mui';
import validator from '@rjsf/validator-ajv8';

// The console writes the type into each title. It stops at a titled part that has no `additionalProperties`. On its
// way down it turns every list that holds objects into an object, so that an `allOf` there would be lost.
export function drawnSchema(part) {
  let result = part;
  if ('title' in part) {
    result = { ...part, title: `${part.title} (${part.format ?? part.type})` };
    if (!('additionalProperties' in part)) return result;
  }
  for (const [key, value] of Object.entries(part)) {
    if (typeof value === 'object') result = { ...result, [key]: drawnSchema(value ?? {}) };
  }
  return result;
}

// One input of type Struct. `text` is what is sent; like the console's, the form reads it only when it is opened.
function StructInput({ schema, text, onText }) {
  const [data, setData] = React.useState(() => JSON.parse(text));
  const onChange = React.useCallback(({ formData }) => {
    onText(JSON.stringify(formData));
    setData(formData);
  }, []);
  return (
    <Card style={{ boxShadow: 'none', padding: 16 }}>
      <Form schema={JSON.parse(JSON.stringify(schema))} validator={validator} formData={data} onChange={onChange}>
        <div />
      </Form>
    </Card>
  );
}

// The launch plan's inputs. What the form reported once is kept for as long as the dialog is open, also when another
// plan is chosen; `kept` is this store.
export function LaunchPlanInputs({ schema, preset, kept }) {
  const [text, setText] = React.useState(() => kept.text ?? JSON.stringify(preset));
  kept.sent = text;
  const onText = (changed) => {
    kept.text = changed;
    setText(changed);
  };
  return <StructInput schema={schema} text={text} onText={onText} />;
}
